"""The methods: each a preset, a function from facts about the images to settings.

A preset reads like the recipe in its paper. What a person asks for (``epochs``, ``batch_size``, ``backbone``) comes in as
wishes, because other values follow from it; everything else is overridden afterwards, setting by setting.
"""

from collections.abc import Callable

from coterie import planning
from coterie.config import PretrainConfig
from coterie.data.views import Augmentation, Crops, ViewPlan
from coterie.grouping.groups import LearnedGroupsConfig
from coterie.grouping.memory import MemoryConfig
from coterie.models.backbone import BackboneConfig, is_resnet
from coterie.models.head import HeadConfig
from coterie.planning import Facts
from coterie.schedule import Cosine
from coterie.training.optimizer import AdamWConfig, LarsConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
SWAV_STD = (0.228, 0.224, 0.225)
"""The release's, in training and evaluation; the .228 is a slip for .229, kept so that numbers can be compared."""


def swav_imagenet_4096(
    facts: Facts, *, epochs: int | None = None, batch_size: int | None = None, backbone: str | None = None
) -> PretrainConfig:
    """SwAV on ImageNet at batch 4096, as published (Caron et al. 2020, appendix A.1; reference run of 800 epochs).

    Command: ``coterie pretrain swav_imagenet_4096 IMAGENET/train --out RUN``. The authors used 64 V100 of 16 GB, 6 h 15 min for
    100 epochs, and publish 72.1 / 73.9 / 74.6 / 75.3 % linear top-1 after 100 / 200 / 400 / 800 epochs. Not measured here.
    """
    return PretrainConfig(
        method="swav_imagenet_4096",
        data=(),
        views=_imagenet_views(facts),
        backbone=BackboneConfig(name=backbone or "resnet50", channels=facts.channels),
        groups=LearnedGroupsConfig(counts=(3000,), frozen_steps=313),
        learning_rate=Cosine(peak=4.8, final=0.0048, warmup_epochs=10, start=0.3),
        epochs=epochs or 800,
        batch_size=batch_size or 4096,
    )


def swav_imagenet_256(
    facts: Facts, *, epochs: int | None = None, batch_size: int | None = None, backbone: str | None = None
) -> PretrainConfig:
    """SwAV on ImageNet at batch 256 with a queue, as published (Caron et al. 2020, section 4.3, appendix A.6).

    Command: ``coterie pretrain swav_imagenet_256 IMAGENET/train --out RUN``. The authors used 4 V100, 52 min an epoch, and
    publish 72.7 / 74.3 % linear top-1 after 200 / 400 epochs. Not measured here. No warm-up; the queue of 3,840 starts at
    epoch 15.
    """
    return PretrainConfig(
        method="swav_imagenet_256",
        data=(),
        views=_imagenet_views(facts),
        backbone=BackboneConfig(name=backbone or "resnet50", channels=facts.channels),
        groups=LearnedGroupsConfig(counts=(3000,), frozen_steps=5005),
        memory=MemoryConfig(length=3840, start_epoch=15),
        learning_rate=Cosine(peak=0.6, final=0.0006),
        epochs=epochs or 400,
        batch_size=batch_size or 256,
    )


def swav(
    facts: Facts, *, epochs: int | None = None, batch_size: int | None = None, backbone: str | None = None
) -> PretrainConfig:
    """SwAV for any images: groups, queue, crops and network follow from their number and size.

    Command: ``coterie pretrain swav IMAGES --out RUN``. Small images (short side up to 96) get two crops of their own size and
    four of about half, softer colour, no blur and a ResNet-18 that keeps its resolution; larger ones the published crops
    and a ResNet-50. ``docs/log.md`` says what was measured.
    """
    batch = batch_size or planning.batch_size(facts.images)
    steps = max(1, facts.images // batch)
    groups = planning.group_count(facts.images)
    past = planning.memory_length(groups, batch)
    network = backbone or ("resnet18" if facts.small else "resnet50")
    small_stem = facts.side <= planning.SMALL_STEM_SIDE and is_resnet(network)
    return PretrainConfig(
        method="swav",
        data=(),
        views=_small_views(facts, 1 if is_resnet(network) else 32) if facts.small else _imagenet_views(facts),
        backbone=BackboneConfig(
            name=network,
            stem="small" if small_stem else "standard",
            channels=facts.channels,
        ),
        projector=HeadConfig(hidden=(512,), width=128) if facts.small else HeadConfig(),
        groups=LearnedGroupsConfig(counts=(groups,), frozen_steps=steps),
        memory=MemoryConfig(length=past, start_epoch=1) if past else None,
        optimizer=AdamWConfig(weight_decay=1e-4) if facts.small else LarsConfig(),
        learning_rate=(
            Cosine(peak=2e-3 * (batch / 256) ** 0.5, final=2e-5 * (batch / 256) ** 0.5, warmup_epochs=1)
            if facts.small
            else Cosine(peak=0.6 * batch / 256, final=0.0006 * batch / 256)
        ),
        epochs=epochs or planning.epochs(facts.images),
        batch_size=batch,
    )


def _imagenet_views(facts: Facts) -> ViewPlan:
    """Two crops of 224 and six of 96 (section 3.2); one recipe for all (release, multicropdataset.py)."""
    return ViewPlan(
        crops=(
            Crops(count=2, size=224, scale=(0.14, 1.0), augmentation=_augmentation(facts)),
            Crops(count=6, size=96, scale=(0.05, 0.14), augmentation=_augmentation(facts)),
        ),
        channels=facts.channels,
        mean=IMAGENET_MEAN if facts.colour else facts.mean,
        std=SWAV_STD if facts.colour else facts.std,
    )


def _small_views(facts: Facts, multiple: int) -> ViewPlan:
    """Two crops of the images' own size and four of about half (18 of 32), after solo-learn's small-image multi-crop.

    Networks that cut an image into patches need sizes that are a ``multiple``.
    """
    large, small = (-(-side // multiple) * multiple for side in (facts.side, max(16, round(facts.side * 9 / 16))))
    own = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur=0.0)
    augmentation = own if facts.colour else _augmentation(facts)
    return ViewPlan(
        crops=(
            Crops(count=2, size=large, scale=(0.2, 1.0), augmentation=augmentation),
            Crops(count=4, size=small, scale=(0.08, 0.4), augmentation=augmentation),
        ),
        channels=facts.channels,
        mean=facts.mean,
        std=facts.std,
    )


def _augmentation(facts: Facts) -> Augmentation:
    """SwAV's recipe; without colour operations where there is no colour to change."""
    return Augmentation() if facts.colour else Augmentation(jitter=0.0, grayscale=0.0)


METHODS: dict[str, Callable[..., PretrainConfig]] = {
    preset.__name__: preset for preset in (swav, swav_imagenet_256, swav_imagenet_4096)
}
