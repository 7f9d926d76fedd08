"""How segmenters are trained: small schedules that fit a CPU, and published ones, as plain values."""

from dataclasses import dataclass
from typing import Literal, final

from coterie.segmentation.heads import HeadKind


@final
@dataclass(frozen=True)
class SegmentationSchedule:
    """Everything by which a segmenter is trained.

    Attributes:
        head: that it is for.
        short_side: in pixels, to which the short side of an image is resized; 0: that of the images.
        longest: most pixels of the long side.
        width: channels of ``fcn`` and ``upernet``.
        scales: a training image is enlarged by a factor between these.
        crop: height and width in pixels of a random part of it; (): all of it.
        batch_size: images per step.
        steps: how many; 0: ``epochs`` of them.
        epochs: passes over the images, where there are no ``steps``.
        least_steps: as many at least, where there are no ``steps``.
        optimizer: ``sgd`` with a momentum of .9, or ``adamw``.
        learning_rate: the highest.
        weight_decay: of all weights but those of norms and biases.
        warmup: steps over which the learning rate grows linearly from ``warmup_factor`` of it; at most a tenth of all.
        warmup_factor: a share of the learning rate.
        power: the learning rate falls as the share of the steps that are left to this power, unless there are ``drops``.
        least_rate: that the learning rate falls to.
        drops: shares of all steps, at each of which the learning rate is divided by ten.
    """

    head: HeadKind
    short_side: int = 0
    longest: int = 2048
    width: int = 64
    scales: tuple[float, float] = (0.75, 1.25)
    crop: tuple[int, ...] = ()
    batch_size: int = 8
    steps: int = 0
    epochs: int = 24
    least_steps: int = 500
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    warmup_factor: float = 1e-6
    power: float = 0.9
    least_rate: float = 0.0
    drops: tuple[float, ...] = ()

    def steps_of(self, images: int) -> int:
        """How many steps there are for so many images."""
        return self.steps or max(self.least_steps, self.epochs * -(-images // self.batch_size))


SMALL = {
    "linear": SegmentationSchedule("linear", learning_rate=0.03),
    "fcn": SegmentationSchedule("fcn", learning_rate=3e-4),
    "upernet": SegmentationSchedule("upernet", learning_rate=3e-4),
}
"""All values are ours."""

LINEAR_ADE20K = SegmentationSchedule(  # all DINOv2's, of its linear heads for ADE20K and VOC
    "linear",
    short_side=512,
    longest=2048,
    scales=(0.5, 2.0),
    crop=(512, 512),
    batch_size=16,
    steps=40_000,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-4,
    warmup=1500,
    warmup_factor=1e-6,
    power=1.0,
)
"""The linear protocol of DINOv2 (Oquab et al. 2023), as the files of its heads state it."""

FCN_VOC = SegmentationSchedule(
    "fcn",
    short_side=513,  # ours: MoCo scales the image itself, and tests at its own size
    longest=2048,
    width=256,  # MoCo's (He et al. 2020, appendix), as for all others
    scales=(0.5, 2.0),
    crop=(513, 513),
    batch_size=16,
    steps=30_000,
    optimizer="sgd",
    learning_rate=0.003,
    weight_decay=1e-4,
    warmup=0,
    drops=(0.7, 0.9),
)
"""MoCo's FCN on Pascal VOC 2012 with the additional masks (train_aug)."""

FCN_CITYSCAPES = SegmentationSchedule(
    **{
        **vars(FCN_VOC),
        "short_side": 1024,  # the images' own
        "crop": (769, 769),  # MoCo's, as for the next two
        "steps": 90_000,
        "learning_rate": 0.01,
    }
)
"""MoCo's FCN on Cityscapes."""

UPERNET_ADE20K = SegmentationSchedule(
    "upernet",
    short_side=512,  # mmsegmentation's, as for all others
    longest=2048,
    width=512,
    scales=(0.5, 2.0),
    crop=(512, 512),
    batch_size=16,
    steps=160_000,
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=5e-4,
    warmup=0,
    power=0.9,
    least_rate=1e-4,
)
"""UPerNet on ADE20K by mmsegmentation's schedule of 160,000 steps."""

PUBLISHED = {
    "linear_ade20k": LINEAR_ADE20K,
    "fcn_voc": FCN_VOC,
    "fcn_cityscapes": FCN_CITYSCAPES,
    "upernet_ade20k": UPERNET_ADE20K,
}


def rate_at(schedule: SegmentationSchedule, step: int, steps: int) -> float:
    """The learning rate of a step.

    Args:
        schedule: the schedule.
        step: from 0.
        steps: all of them.
    """
    if schedule.drops:
        rate = schedule.learning_rate * 0.1 ** sum(step >= round(share * steps) for share in schedule.drops)
    else:
        fallen = (1 - step / steps) ** schedule.power
        rate = schedule.least_rate + (schedule.learning_rate - schedule.least_rate) * fallen
    warmup = min(schedule.warmup, steps // 10)
    if step < warmup:
        rate *= schedule.warmup_factor + (1 - schedule.warmup_factor) * step / warmup
    return rate
