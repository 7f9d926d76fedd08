"""The recipe for going on from weights: what is chosen otherwise for a network that knows something already.

At the rate of a fresh network it forgets what the weights know before it has learned anything in its place. The figures by
which this was chosen are in ``docs/models.md``; ``benchmarks/start_from.py`` measures them.
"""

from dataclasses import replace
from typing import Any

from coterie.config.schema import RunConfig
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.grouping.regularizers import CodingRate
from coterie.methods.planner import PUBLIC_SIDE, Planner
from coterie.models.backbone import BackboneConfig
from coterie.models.backbone_of_weights import blank_network
from coterie.models.inference import rounds_badly
from coterie.models.layers import batch_norms
from coterie.optim.optimizer import AdamWConfig
from coterie.optim.schedule import Constant, Cosine

PEAK = 3e-4
"""Peak of the learning rate of AdamW; random weights get 4e-3 at batch 256."""
CROPS = (3 / 7, 2 / 7)
"""Sides of the crops as shares of the images that the weights know: 96 and 64 of 224 pixels."""


def going_on(plan: Planner, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that all methods share, changed for going on from weights.

    Args:
        plan: the planner, with the network in the weights to start from; receives the reasons.
        settings: those for random weights.
    """
    backbone: BackboneConfig = settings["backbone"]
    network = blank_network(backbone, None if plan.start is None else plan.start.image_size)
    if batch_norms(network):
        why = "the weights know these statistics; batches of few images, augmented, have others"
        backbone = replace(backbone, frozen_statistics=plan.because("backbone.frozen_statistics", True, why))
    plan.because("optimizer.kind", "adamw", "few steps")
    why = "without it the features of the weights collapse into few directions as groups form"
    weight = plan.because("regularizer.weight", CodingRate().weight, why)
    run = settings.get("run", RunConfig())
    if rounds_badly(network):
        why = "bfloat16 changes what batch-normalized depthwise convolutions have learned, and is no faster on a CPU"
        run = replace(run, precision=plan.because("run.precision", "float32", why))
    peak = plan.because("learning_rate.peak", PEAK, "from weights: higher ones forget what the weights know")
    return settings | {
        "views": _views(plan, settings["views"]),
        "backbone": backbone,
        "optimizer": AdamWConfig(weight_decay=Constant(1e-4)),
        "learning_rate": Cosine(peak=peak, final=peak / 100, warmup_epochs=min(1.0, plan.epochs() / 10)),
        "regularizer": CodingRate(weight=weight),
        "run": run,
    }


def _views(plan: Planner, views: ViewPlan) -> ViewPlan:
    """Smaller crops, whole images of the size that the weights know, and pixels normalized as they know them."""
    start, facts = plan.start, plan.facts
    assert start is not None
    if not facts.small:
        size, (large, small) = start.image_size or PUBLIC_SIDE, views.crops
        sides = [round(size * share) for share in CROPS]
        crops = (
            replace(large, size=sides[0], scale=(0.2, 1.0)),
            replace(small, count=2, size=sides[1], scale=(0.08, 0.4)),
        )
        views = replace(views, crops=crops, image_size=size)
        why = f"3/7 and 2/7 of the {size} pixels that the weights know: minutes of a CPU, not days"
        plan.because("views.crops", f"2x{sides[0]} + 2x{sides[1]}", why)
        plan.because("views.image_size", size, "whole images at the size that the weights know")
    if start.mean is None or start.std is None or facts.bits != 8 or facts.channels not in (1, len(start.mean)):
        return views
    mean, std = (each if len(each) == facts.channels else (sum(each) / len(each),) for each in (start.mean, start.std))
    return replace(views, mean=mean, std=std)
