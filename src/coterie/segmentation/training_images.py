"""The images and masks of each training step: decoded ahead by threads, enlarged, cropped and flipped at random."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from coterie.data.decoding.decode import decode
from coterie.data.loading.whole_images import as_floats, drawn_places, is_flipped, made_ahead
from coterie.errors import BadImage
from coterie.segmentation.classes import IGNORED
from coterie.segmentation.masks import MaskedSource
from coterie.segmentation.network import SegmenterSettings
from coterie.segmentation.schedules import SegmentationSchedule


@dataclass(frozen=True)
class SegmentationBatch:
    """The images of a step.

    Attributes:
        images: each ``[C, H, W]``, float32 in [0, 1].
        labels: of each image, the class of each pixel.
        bad: name and reason of each image that could not be used.
    """

    images: list[Tensor]
    labels: list[Tensor]
    bad: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: torch.device) -> "SegmentationBatch":
        """The same on a device."""
        images, labels = ([each.to(device) for each in many] for many in (self.images, self.labels))
        return SegmentationBatch(images, labels, self.bad)


def read_pair(
    masked: MaskedSource, place: int, channels: int
) -> tuple[Float[Tensor, "c h w"], UInt8[np.ndarray, "h w"]]:
    """An image in [0, 1], and the class of each of its pixels.

    Args:
        masked: the images.
        place: of the image among them.
        channels: as the network takes them.

    Raises:
        BadImage: it cannot be decoded, or its mask has another size.
    """
    image = decode(masked.source[masked.positions[place]], channels, value_range=masked.value_range)
    labels = masked.labels(place)
    if image.shape[:2] != labels.shape:
        found = f"{image.shape[1]} x {image.shape[0]}"
        raise BadImage(f"{found} pixels where its mask has {labels.shape[1]} x {labels.shape[0]}")
    return as_floats(image), labels


def seen_size(height: int, width: int, settings: SegmenterSettings, scale: float = 1.0) -> tuple[int, int]:
    """Height and width at which a segmenter sees an image: its short side, unless the long side were too long then."""
    factor = min(settings.short_side / min(height, width), settings.longest / max(height, width)) * scale
    return max(1, round(height * factor)), max(1, round(width * factor))


def seen_image(image: Float[Tensor, "c _ _"], size: tuple[int, int]) -> Float[Tensor, "c _ _"]:
    """An image at another size, without aliases."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def training_batches(
    masked: MaskedSource,
    channels: int,
    settings: SegmenterSettings,
    schedule: SegmentationSchedule,
    steps: range,
    seed: int,
    workers: int,
) -> Iterator[SegmentationBatch]:
    """Yield the images of some steps; each is a pure function of seed and step.

    Args:
        masked: the images.
        channels: as the network takes them.
        settings: say the size of images.
        schedule: batch size, scales and crop.
        steps: numbers of the steps.
        seed: of order, scales, crops and flips.
        workers: threads that decode; 0: this one, when an image is needed.
    """

    def batch(step: int) -> SegmentationBatch:
        made = SegmentationBatch([], [])
        for drawn, place in drawn_places(len(masked.positions), schedule.batch_size, step, seed):
            try:
                image, labels = read_pair(masked, place, channels)
            except BadImage as error:
                made.bad.append((masked.source.name(masked.positions[place]), str(error)))
                continue
            image, target = _drawn(image, torch.from_numpy(labels), settings, schedule, (seed, 2, drawn))
            flipped = is_flipped(drawn, seed)
            made.images.append(image.flip(2) if flipped else image)
            made.labels.append(target.flip(1) if flipped else target)
        return made

    return made_ahead(batch, steps, workers)


def padded_labels(labels: Sequence[UInt8[Tensor, "_ _"]], size: Sequence[int]) -> UInt8[Tensor, "b _ _"]:
    """Labels of images of several sizes as a batch: what is beyond an image is ignored."""
    height, width = size
    padding = [(0, width - each.shape[1], 0, height - each.shape[0]) for each in labels]
    return torch.stack([F.pad(each, pad, value=IGNORED) for each, pad in zip(labels, padding, strict=True)])


def _drawn(
    image: Float[Tensor, "c _ _"],
    labels: UInt8[Tensor, "_ _"],
    settings: SegmenterSettings,
    schedule: SegmentationSchedule,
    stream: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """An image and its labels at a random scale, and a random part of them."""
    generator = np.random.default_rng(stream)
    low, high = schedule.scales
    size = seen_size(image.shape[1], image.shape[2], settings, float(generator.uniform(low, high)))
    image = seen_image(image, size)
    labels = F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]
    if schedule.crop:
        top, left = (
            int(generator.integers(max(0, side - crop) + 1)) for side, crop in zip(size, schedule.crop, strict=True)
        )
        rows, columns = slice(top, top + schedule.crop[0]), slice(left, left + schedule.crop[1])
        image, labels = image[:, rows, columns], labels[rows, columns]
    return image, labels
