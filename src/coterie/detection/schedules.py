"""How detectors are trained: a small schedule that fits a CPU, and published ones, as plain values."""

from dataclasses import dataclass
from typing import final

VOC_SIDES = tuple(range(480, 801, 32))
COCO_SIDES = tuple(range(640, 801, 32))


@final
@dataclass(frozen=True)
class DetectionSchedule:
    """Everything by which a detector is trained.

    Attributes:
        short_sides: in pixels, to one of which the short side of a training image is resized; (): that of the images.
        longest: most pixels of the long side.
        width: channels of the feature pyramid.
        hidden: width of the box head.
        regions: regions of an image that the box head is trained on.
        proposals: regions of an image that are proposed.
        batch_size: images per step.
        steps: how many; 0: ``epochs`` of them.
        epochs: passes over the images, where there are no ``steps``.
        least_steps: as many at least, where there are no ``steps``.
        learning_rate: the highest.
        momentum: of SGD.
        weight_decay: of all weights but those of norms and biases.
        warmup: steps over which the learning rate grows linearly from ``warmup_factor`` of it; at most a tenth of all.
        warmup_factor: a share of the learning rate.
        drops: shares of all steps, at each of which the learning rate is divided by ten.
    """

    short_sides: tuple[int, ...] = ()
    longest: int = 1333
    width: int = 64
    hidden: int = 256
    regions: int = 64
    proposals: int = 400
    batch_size: int = 4
    steps: int = 0
    epochs: int = 24
    least_steps: int = 1000
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: int = 200
    warmup_factor: float = 0.001
    drops: tuple[float, ...] = (2 / 3, 8 / 9)

    def steps_of(self, images: int) -> int:
        """How many steps there are for so many images."""
        return self.steps or max(self.least_steps, self.epochs * -(-images // self.batch_size))


SMALL = DetectionSchedule()
"""All values are ours: about a tenth of the arithmetic of the published heads, at the size of the images themselves."""

VOC = DetectionSchedule(
    short_sides=VOC_SIDES,  # MoCo's protocol (He et al. 2020), as for `longest`, batch, steps, drops, momentum and decay
    longest=1333,
    width=256,  # torchvision's Faster R-CNN: SwAV's is a ResNet-50 C4 without a pyramid, as for the next three
    hidden=1024,
    regions=512,
    proposals=2000,
    batch_size=16,
    steps=24_000,
    learning_rate=0.1,  # SwAV's, A.5, as for the next two
    warmup=1000,
    warmup_factor=1 / 3,
    drops=(18 / 24, 22 / 24),
)
"""VOC07+12 as in SwAV's appendix A.5: MoCo's protocol at a higher learning rate."""

COCO_1X = DetectionSchedule(
    short_sides=COCO_SIDES,  # Detectron2's, as all values but the weight decay of norms (none, ours and its)
    longest=1333,
    width=256,
    hidden=1024,
    regions=512,
    proposals=2000,
    batch_size=16,
    steps=90_000,
    learning_rate=0.02,
    warmup=1000,
    warmup_factor=0.001,
    drops=(60 / 90, 80 / 90),
)
"""COCO's 1x schedule of Detectron2, by which MoCo and SwAV compare Mask R-CNNs (``--detector mask_rcnn``)."""

COCO_2X = DetectionSchedule(**{**vars(COCO_1X), "steps": 180_000})
"""The same, twice as long."""

SCHEDULES = {"small": SMALL, "voc": VOC, "coco_1x": COCO_1X, "coco_2x": COCO_2X}


def rate_at(schedule: DetectionSchedule, step: int, steps: int) -> float:
    """The learning rate of a step.

    Args:
        schedule: the schedule.
        step: from 0.
        steps: all of them.
    """
    warmup = min(schedule.warmup, steps // 10)
    rate = schedule.learning_rate
    if step < warmup:
        return rate * (schedule.warmup_factor + (1 - schedule.warmup_factor) * step / warmup)
    return rate * 0.1 ** sum(step >= round(share * steps) for share in schedule.drops)
