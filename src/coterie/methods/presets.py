"""The methods for any images: each is a preset, a function from a planner to settings.

A preset reads like the recipe in its paper. What the paper gives for ImageNet only (crops, network, optimizer, number of
groups) is chosen here from the number and size of the images, in the same way for all methods (:func:`_recipe`), so that they
can be compared. The published settings are in :mod:`coterie.methods.imagenet`. Any setting can be overridden afterwards.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coterie.config.choice import Scale
from coterie.config.facts import Facts
from coterie.config.schema import PretrainConfig
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.grouping.assignment import Nearest, Sinkhorn
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import KMeansGroupsConfig, LearnedGroupsConfig, MomentumGroupsConfig
from coterie.grouping.memory_queue import MemoryConfig, Refresh
from coterie.grouping.regularizers import CodingRate, Uniformity
from coterie.grouping.teacher import MomentumTeacherConfig, SameNetwork
from coterie.methods.going_on import going_on
from coterie.methods.imagenet import PUBLISHED
from coterie.methods.imagenet_views import imagenet_views
from coterie.methods.planner import Planner
from coterie.models.backbone import OWN, is_resnet
from coterie.models.backbone_of_weights import FoundBackbone
from coterie.models.head import HeadConfig
from coterie.models.image_sizes import fitting_sizes
from coterie.optim.optimizer import AdamWConfig, LarsConfig
from coterie.optim.schedule import Constant, Cosine, Linear

_HELD_TOGETHER = Uniformity(weight=3.0, alignment=1.0)
"""Beside groups of small images: views of an image attract each other, and images repel each other, without the groups too, as
these say little early in a run. Groups have 30 to 46 % of the gradient then (``docs/log.md``)."""


def swav(plan: Planner) -> PretrainConfig:
    """SwAV: swapped prediction of balanced codes over learned prototypes (Caron et al. 2020, arXiv 2006.09882).

    Command: ``coterie pretrain swav IMAGES --out RUN``. Measured on a CPU: 10,000 images of CIFAR-10, a ResNet-18 of width
    3/16, 10 epochs in five minutes of one core: 20-NN 48.4 % of other training images (one seed, ``docs/log.md``).
    """
    groups = plan.groups()
    past = plan.queue(groups[0])
    return PretrainConfig(
        method="swav",
        **_recipe(plan, _HELD_TOGETHER),
        projector=_projector(plan),
        groups=LearnedGroupsConfig(counts=groups, frozen_steps=plan.frozen_steps()),
        assignment=Sinkhorn(temperature=plan.sinkhorn_temperature(), iterations=3),
        memory=MemoryConfig(length=past, start_epoch=plan.queue_epoch()) if past else None,
    )


def smog(plan: Planner) -> PretrainConfig:
    """SMoG: contrast against groups that move with the network (Pang et al. 2022, arXiv 2207.06167).

    Command: ``coterie pretrain smog IMAGES --out RUN``. Measured as ``swav``: 48.9 %.
    Ours: one family of views for both networks (``smog_imagenet`` has the two that alternate), separate batch statistics for
    each resolution, and a teacher that follows faster, for runs of fewer steps. For small images also balanced groups that
    follow the network at once, and neither momentum encoder nor predictor: balance was what SMoG lacked (``docs/log.md``).
    """
    if plan.learns_anew:
        return PretrainConfig(
            method="smog",
            **_recipe(plan, _HELD_TOGETHER),
            projector=_projector(plan),
            groups=MomentumGroupsConfig(counts=plan.groups_of_batch(), momentum=Constant(plan.groups_momentum())),
            assignment=Sinkhorn(temperature=plan.sinkhorn_temperature(), iterations=3),
            memory=MemoryConfig(length=plan.epoch_memory(), start_epoch=0),
            refresh=Refresh(),
            temperature=0.2,
        )
    return PretrainConfig(
        method="smog",
        **_recipe(plan),
        projector=replace(_projector(plan), last_batch_norm=True),
        predictor=replace(_projector(plan), last_batch_norm=False),
        target=MomentumTeacherConfig(momentum=Cosine(peak=0.99, final=1.0), moves="before"),
        groups=MomentumGroupsConfig(counts=plan.groups(heads=3), momentum=Linear(1.0, 0.99)),
        assignment=Nearest(),
        memory=MemoryConfig(length=plan.epoch_memory(), start_epoch=0),
        refresh=Refresh(reset_teacher=True),
    )


def deepcluster_v2(plan: Planner) -> PretrainConfig:
    """DeepCluster-v2: predict the k-means group of each image an epoch ago (Caron et al. 2020, appendix D.2).

    Command: ``coterie pretrain deepcluster_v2 IMAGES --out RUN``. Measured as ``swav``: 48.8 %. Ours for small images: labels
    that change every 240 steps.
    """
    return PretrainConfig(
        method="deepcluster_v2",
        **_recipe(plan, _HELD_TOGETHER),
        projector=_projector(plan),
        groups=KMeansGroupsConfig(counts=plan.groups(heads=3)),
        assignment=Nearest(),
        memory=MemoryConfig(length=plan.epoch_memory(), start_epoch=0),
        refresh=Refresh(labels=True, every_epochs=plan.label_epochs()),
    )


def sela_v2(plan: Planner) -> PretrainConfig:
    """SeLa-v2: predict balanced labels of the whole dataset, learned prototypes (Caron et al. 2020, appendix D).

    Command: ``coterie pretrain sela_v2 IMAGES --out RUN``. Measured as ``swav``: 40.0 %. No coding rate, which costs it two
    points (``docs/log.md``).
    """
    return PretrainConfig(
        method="sela_v2",
        **_recipe(plan),
        projector=_projector(plan),
        groups=LearnedGroupsConfig(counts=plan.groups(heads=3), frozen_steps=plan.frozen_steps()),
        assignment=Sinkhorn(temperature=plan.sinkhorn_temperature(), iterations=1000, hard=True, tolerance=1e-3),
        memory=MemoryConfig(length=plan.epoch_memory(), start_epoch=0),
        refresh=Refresh(labels=True, every_epochs=plan.label_epochs()),
    )


def simclr(plan: Planner) -> PretrainConfig:
    """SimCLR with several crops, the contrastive baseline (Chen et al. 2020; Caron et al. 2020, appendix A.8).

    Command: ``coterie pretrain simclr IMAGES --out RUN``. No lasting groups: each image is a group of its own. Measured as
    ``swav``: 49.4 %.
    """
    return PretrainConfig(
        method="simclr",
        **_recipe(plan, CodingRate(0.01)),
        projector=_projector(plan),
        groups=BatchGroupsConfig(gradient=True),
        assignment=Identity(),
        temperature=0.2,
    )


def resa(plan: Planner) -> PretrainConfig:
    """ReSA: balanced self-assignment over the batch's own features, no prototypes (Weng et al. 2025, ICML).

    Command: ``coterie pretrain resa IMAGES --out RUN``. Ours: the same augmentation for all views (the authors' first view is
    weakly augmented), no predictor, and a projector of two layers. On small images also sharper codes and predictions, and no
    teacher, so that the gradient flows into both views. Measured as ``swav``: 49.8 %, 15 points more than without these.
    """
    small = plan.facts.small
    teacher = MomentumTeacherConfig(momentum=Cosine(peak=0.99, final=1.0), moves="before")
    return PretrainConfig(
        method="resa",
        **_recipe(plan, CodingRate(0.01)),
        batch_norm_scope="resolution" if small else "view",
        projector=replace(_projector(plan), last_batch_norm=True),
        target=SameNetwork() if small else teacher,
        groups=BatchGroupsConfig(gradient=small),
        assignment=Sinkhorn(temperature=plan.self_assignment_temperature(), iterations=3),
        temperature=0.2 if small else 0.4,
    )


def _recipe(plan: Planner, regularizer: CodingRate | Uniformity | None = None) -> dict[str, Any]:
    """What all methods share: views, network, optimizer and duration, chosen from the number and size of the images.

    ``regularizer`` is for small images that are learned anew; from weights all methods have the same.
    """
    facts, batch = plan.facts, plan.batch_size()
    backbone, larger = plan.backbone(), plan.enlargement() if facts.small else 1.0
    if facts.small:
        patches = not (is_resnet(backbone.name) or backbone.name.startswith(OWN))
        views = _small_views(facts, 32 if patches else 1, larger)
        peak = plan.because(
            "learning_rate.peak",
            4e-3 * (batch / 256) ** 0.5,
            "0.004 at batch 256, proportional to the square root of the batch",
        )
        rate = Cosine(peak=peak, final=peak / 100, warmup_epochs=min(1.0, plan.epochs() / 10))
    else:
        views = imagenet_views(facts)
        peak = plan.because(
            "learning_rate.peak", 0.6 * batch / 256, "0.6 at batch 256 as published, proportional to the batch"
        )
        rate = Cosine(peak=peak, final=peak / 1000)
    sizes = " + ".join(f"{each.count}x{each.size}" for each in views.crops)
    why = "3/4 and 1/2 of the side of the images" if facts.small else "as published"
    if larger > 1:
        why += f", enlarged {larger:.3g} times: the weights know larger ones"
        plan.reasons["views.image_size"] = f"the side of the images, enlarged {larger:.3g} times"
    plan.because("views.crops", sizes, why)
    optimizer = plan.because(
        "optimizer.kind", "adamw" if facts.small else "lars", "few steps" if facts.small else "as published"
    )
    settings = {
        "data": (),
        "views": views,
        "backbone": backbone,
        "optimizer": AdamWConfig(weight_decay=Constant(1e-4)) if optimizer == "adamw" else LarsConfig(),
        "learning_rate": rate,
        "epochs": plan.epochs(),
        "batch_size": batch,
    }
    if plan.start is not None:
        return going_on(plan, settings)
    if not facts.small or regularizer is None:
        return settings
    why = "in short runs on small images the features vary along more directions, and tell more images apart"
    plan.because("regularizer.weight", regularizer.weight, why)
    return settings | {"regularizer": regularizer}


def _projector(plan: Planner) -> HeadConfig:
    """As published for large images; narrower for small ones, with a last batch norm to spread early embeddings (SMoG)."""
    if plan.facts.small:
        return HeadConfig(hidden=(512,), width=128, last_batch_norm=True)
    return HeadConfig(hidden=(2048,), width=128)


def _small_views(facts: Facts, multiple: int, larger: float = 1.0) -> ViewPlan:
    """Two crops of three quarters of the side of the images and two of half of it: 24 and 16 pixels of 32.

    A random crop enlarges a part of the image: at three quarters of the side, objects have the size that they have in the
    whole image at test time (Touvron et al. 2019, arXiv 1906.06423), at half the cost. Networks that split an image into
    patches need sizes that are a multiple of ``multiple``. All sizes are those of images that are ``larger`` times as large.
    """
    side = round(facts.side * larger)
    large, small = (-(-max(16, round(side * share)) // multiple) * multiple for share in (3 / 4, 1 / 2))
    own = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)
    augmentation = own if facts.color else replace(own, jitter=0.0, grayscale=0.0)
    return ViewPlan(
        crops=(
            Crops(count=2, size=large, scale=(0.2, 1.0), augmentation=augmentation),
            Crops(count=2, size=small, scale=(0.08, 0.4), augmentation=augmentation),
        ),
        channels=facts.channels,
        mean=facts.mean,
        std=facts.std,
        image_size=-(-side // multiple) * multiple,
    )


METHODS: dict[str, Callable[[Planner], PretrainConfig]] = {
    preset.__name__: preset for preset in (swav, smog, deepcluster_v2, sela_v2, simclr, resa, *PUBLISHED)
}
"""All presets by name."""


def plan_method(
    method: str,
    facts: Facts,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    backbone: str | None = None,
    start: FoundBackbone | None = None,
    scale: Scale | None = None,
) -> tuple[PretrainConfig, dict[str, str]]:
    """Complete a preset for given images.

    Args:
        method: a name in ``METHODS``.
        facts: facts about the images.
        epochs: passes over the images; None: chosen.
        batch_size: images per step; None: chosen.
        backbone: a network of timm; None: chosen.
        start: the network in the weights to start from; None: random weights.
        scale: network and size of the images that a budget chooses; None: the preset's.

    Returns:
        The config, and the reason for each automatic value by the path of its setting.
    """
    planner = Planner(facts, epochs=epochs, batch_size=batch_size, backbone=backbone, start=start, scale=scale)
    config = METHODS[method](planner)
    return replace(config, views=_fitting_views(config, planner.reasons)), planner.reasons


def _fitting_views(config: PretrainConfig, reasons: dict[str, str]) -> ViewPlan:
    """The views in the nearest sizes that the network takes, with the reason; ResNets take all."""
    views, name = config.views, config.backbone.name
    if is_resnet(name):
        return views
    fitting = fitting_sizes(config.backbone, {*views.sizes, views.center_crop_size})
    rounded = f"the nearest sizes that {name} takes"
    if any(fitting[each.size] != each.size for each in views.crops):
        before = " + ".join(f"{each.count}x{each.size}" for each in views.crops)
        why = reasons.get("views.crops", "as published")
        reasons["views.crops"] = f"{why}; {before} rounded to {rounded}"
    crops = tuple(replace(each, size=fitting[each.size]) for each in views.crops)
    if views.image_size is None:
        return replace(views, crops=crops)
    if fitting[views.image_size] != views.image_size:
        reasons["views.image_size"] = f"{views.image_size}, rounded to {rounded}"
    return replace(views, crops=crops, image_size=fitting[views.image_size])
