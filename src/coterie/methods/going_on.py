"""The recipe for going on from weights: what is chosen otherwise for a network that knows something already.

At the rate of a fresh network it forgets what the weights know before it has learned anything in its place. The figures by
which this was chosen are in ``docs/models.md``; ``benchmarks/start_from.py`` measures them.
"""

import math
from dataclasses import replace
from typing import Any

from torch import nn

from coterie.config.schema import RunConfig
from coterie.data.augmentation.view_plan import Augmentation, ViewPlan
from coterie.errors import BadConfig
from coterie.grouping.regularizers import CodingRate
from coterie.methods.planner import PUBLIC_SIDE, Planner
from coterie.models.backbone import BackboneConfig
from coterie.models.backbone_of_weights import blank_network
from coterie.models.inference import rounds_badly
from coterie.models.layers import batch_norms, layer_numbers
from coterie.optim.optimizer import AdamWConfig
from coterie.optim.schedule import Constant, Cosine

PEAK = 3e-4
"""Peak of the learning rate of AdamW; random weights get 4e-3 at batch 256."""
STEM_RATE = 0.01
"""Learning rate of the stem as a share of that of the heads: 0.7 a layer for 12 blocks, where BEiT uses 0.65 to 0.75."""
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
    decay = _layer_decay(network)
    if decay < 1:
        why = f"the stem has {STEM_RATE:g} times the rate of the heads: what first layers know suits any images"
        plan.because("optimizer.layer_decay", decay, why)
    plan.because("optimizer.kind", "adamw", "few steps")
    why = "without it the features of the weights collapse into few directions as groups form"
    regularizer = CodingRate()
    plan.because("regularizer.weight", regularizer.weight, why)
    run = settings.get("run", RunConfig())
    if rounds_badly(network):
        why = "bfloat16 changes what batch-normalized depthwise convolutions have learned, and is no faster on a CPU"
        run = replace(run, precision=plan.because("run.precision", "float32", why))
    peak = plan.because("learning_rate.peak", PEAK, "from weights: higher ones forget what the weights know")
    return settings | {
        "views": _views(plan, settings["views"]),
        "backbone": backbone,
        "optimizer": AdamWConfig(weight_decay=Constant(1e-4), layer_decay=decay),
        "learning_rate": Cosine(peak=peak, final=peak / 100, warmup_epochs=min(1.0, plan.epochs() / 10)),
        "regularizer": regularizer,
        "run": run,
    }


def _views(plan: Planner, views: ViewPlan) -> ViewPlan:
    """Smaller crops, whole images resized as the weights know them, and pixels normalized likewise."""
    start, facts = plan.start, plan.facts
    assert start is not None
    if not facts.small:
        size, (large, small) = start.image_size or PUBLIC_SIDE, views.crops
        sides = [round(size * share) for share in CROPS]
        crops = (
            replace(large, size=sides[0], scale=(0.2, 1.0), augmentation=_gentle(large.augmentation)),
            replace(small, count=2, size=sides[1], scale=(0.08, 0.4), augmentation=_gentle(small.augmentation)),
        )
        views = replace(views, crops=crops, image_size=size)
        why = f"3/7 and 2/7 of the {size} pixels that the weights know: minutes of a CPU, not days; gentle colors"
        plan.because("views.crops", f"2x{sides[0]} + 2x{sides[1]}", why)
        plan.because("views.image_size", size, "whole images at the size that the weights know")
    if start.interpolation != views.interpolation:
        why = "as the weights know whole images"
        views = replace(views, interpolation=plan.because("views.interpolation", start.interpolation, why))
    if start.mean is None or start.std is None or facts.bits != 8 or facts.channels not in (1, len(start.mean)):
        return views
    mean, std = (each if len(each) == facts.channels else (sum(each) / len(each),) for each in (start.mean, start.std))
    return replace(views, mean=mean, std=std)


def _gentle(strong: Augmentation) -> Augmentation:
    """Weaker changes of color, no gray and no blur: what tells the kinds of special images apart is often color or texture."""
    return replace(strong, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.05, grayscale=0.0, blur=0.0)


def _layer_decay(network: nn.Module) -> float:
    """The decay with which the stem has its share of the rate; 1 where timm does not order the layers."""
    try:
        above = 1 + max(layer_numbers(network).values())
    except BadConfig:
        return 1.0
    return round(math.pow(STEM_RATE, 1 / above), 3)
