"""Center crops for embedding and evaluation: each image of a source once, in order."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import normalize
from coterie.data.augmentation.jpeg_scale import square_downscale
from coterie.data.decoding.decode import decode
from coterie.data.decoding.pixels import ValueRange
from coterie.data.loading.workers import WorkerBatch, stack_images, worker_batches
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage
from coterie.types import Batch, Interpolation

_Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, with fractions
_LATER = ("crop", "interpolation", "value_range")  # fields that earlier versions did not know


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images: center crops, normalized.

    Attributes:
        size: Height and width in pixels.
        channels: Number of channels.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
        crop: Share of the resized short side that is cropped, in (0, 1]; None: 0.875 from 96 pixels on, below that all of it.
        interpolation: How images are resized.
        value_range: Lowest and highest value of images of floating-point, signed or 32-bit values; None: they are refused.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = None
    interpolation: Interpolation = "bilinear"
    value_range: ValueRange | None = None

    def facts(self) -> dict[str, Any]:
        """Plain values that identify it; those that earlier versions did not know are left out where they say nothing new."""
        given = {name: value for name, value in asdict(self).items() if name not in _LATER}
        given |= {"crop": self.crop} if self.crop is not None else {}
        given |= {"value_range": list(self.value_range)} if self.value_range is not None else {}
        return given | ({"interpolation": self.interpolation} if self.interpolation != "bilinear" else {})

    @property
    def resized(self) -> int:
        """Length in pixels that the short side is resized to, before the crop."""
        return _resized(self.size, self.crop)

    def at_most(self, size: int) -> "Preprocessing":
        """The same part of each image, at this size if that is smaller."""
        return self if size >= self.size else self.at(size)

    def at(self, size: int) -> "Preprocessing":
        """The same part of each image, at this size."""
        return replace(self, size=size, crop=self.crop if self.crop is not None else _share(self.size))

    def __str__(self) -> str:
        """Say it in words: ``224 pixels, crop .875, bicubic, mean .485 .456 .406, std .229 .224 .225``."""
        share = _share(self.size) if self.crop is None else self.crop
        mean, std = (" ".join(map(_short, values)) for values in (self.mean, self.std))
        limits = "" if self.value_range is None else " range {:g} to {:g},".format(*self.value_range)
        return f"{self.size} pixels, crop {_short(share)}, {self.interpolation},{limits} mean {mean}, std {std}"


def center_crop_batches(
    source: ImageSource,
    *,
    size: int,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop: float | None = None,
    interpolation: Interpolation = "bilinear",
    value_range: ValueRange | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yield the normalized center crop of each image of a source, in order, as the only view of its batch.

    Images that cannot be decoded are left out and listed in ``bad``.

    Args:
        source: The images.
        size: Height and width of the crops, in pixels.
        channels: Number of channels to decode.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        crop: As of :class:`Preprocessing`.
        interpolation: As of :class:`Preprocessing`.
        value_range: As of :class:`Preprocessing`.
        batch_size: Images per batch; the last batch may be smaller.
        workers: Number of worker processes; 0: this process.
        device: Device of the batches.
    """
    order = np.arange(len(source))
    requests = (order[first : first + batch_size] for first in range(0, len(source), batch_size))
    device = torch.device(device)
    crops = _CenterCropDataset(source, Preprocessing(size, channels, mean, std, crop, interpolation, value_range))
    for batch in worker_batches(crops, requests, workers, device):
        views = {
            number: normalize(view.to(device, non_blocking=True), mean, std) for number, view in batch.pixels.items()
        }
        yield Batch(batch.index, views, batch.bad)


def center_crop(
    image: np.ndarray, size: int, crop: float | None = None, interpolation: Interpolation = "bilinear"
) -> np.ndarray:
    """The center crop of an image.

    The usual protocol, torchvision's ``Resize`` and ``CenterCrop``: the short side is resized to ``size / 0.875`` (256 for
    224), or to ``size`` itself for sizes below 96, the long side in proportion and rounded down to whole pixels; then the
    central square is cropped, with margins rounded to whole pixels. Both are one resampling here.

    Args:
        image: ``[H, W, C]``, uint8 or uint16.
        size: Height and width of the crop, in pixels.
        crop: Share of the resized short side that is cropped; None: as above.
        interpolation: How the image is resized.

    Returns:
        ``[C, size, size]``: uint8 for 8-bit images of 1 or 3 channels, otherwise float32 in [0, 1].
    """
    height, width = image.shape[:2]
    box = _box(height, width, size, crop)
    return np.ascontiguousarray(_cropped(image, size, box, interpolation).transpose(2, 0, 1))


def _cropped(image: np.ndarray, size: int, box: _Box, interpolation: Interpolation) -> np.ndarray:
    """A part of an image, resized, with the channels last, as images are decoded and as convolutions prefer them."""
    height, width, channels = image.shape
    how = Image.Resampling[interpolation.upper()]
    if image.dtype == np.uint8 and channels in (1, 3):
        if (height, width) == (size, size) and box == (0, 0, size, size):
            return image
        picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
        return np.asarray(picture.resize((size, size), how, box=box)).reshape(size, size, channels)
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    planes = [Image.fromarray(image[:, :, c].astype(np.float32) * scale) for c in range(channels)]
    floats = np.stack([np.asarray(p.resize((size, size), how, box=box)) for p in planes], axis=2)
    return floats if interpolation == "bilinear" else floats.clip(0, 1)  # the others overshoot at edges


class _CenterCropDataset(Dataset[Any]):
    """In a worker: makes the center crops of the images at some positions."""

    def __init__(self, source: ImageSource, look: Preprocessing) -> None:
        self.source, self.look = source, look

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> WorkerBatch:
        decoded, crops, bad = [], [], []
        for index in indices:
            try:
                crops.append(self._crop_of(int(index)))
            except BadImage as error:
                bad.append((int(index), str(error)))
            else:
                decoded.append(index)
        views = {0: stack_images(crops).permute(0, 3, 1, 2)} if crops else {}
        return WorkerBatch(torch.tensor(decoded, dtype=torch.int64), views, bad=tuple(bad))

    def _crop_of(self, index: int) -> np.ndarray:
        """The center crop of an image; one that is decoded at a smaller scale is cropped where the full image is."""
        look, factor = self.look, 1
        full: tuple[int, int] | None = None

        def downscale(height: int, width: int) -> int:
            nonlocal full, factor
            side, full = _square_side(height, width, look.size, look.crop), (height, width)
            factor = square_downscale(side, look.size)
            return factor

        image = decode(self.source[index], look.channels, downscale, look.value_range)
        height, width = image.shape[:2]
        tall, wide = full or (height, width)
        left, top, right, bottom = (edge / factor for edge in _box(tall, wide, look.size, look.crop))
        box = (left, top, min(right, width), min(bottom, height))
        return _cropped(image, look.size, box, look.interpolation)


def _share(size: int) -> float:
    """The usual share of the resized short side that is cropped: 0.875; all of it for sizes below 96."""
    return 0.875 if size >= 96 else 1.0


def _box(height: int, width: int, size: int, crop: float | None) -> _Box:
    """The part of the image that becomes the crop, of an image resized to whole pixels and cropped with whole margins."""
    short = _resized(size, crop)
    across, down = (int(short * side / min(height, width)) for side in (width, height))
    left, top = (round((side - size) / 2) for side in (across, down))
    x, y = width / across, height / down
    return left * x, top * y, min((left + size) * x, width), min((top + size) * y, height)


def _square_side(height: int, width: int, size: int, crop: float | None) -> float:
    """The side of the central square that becomes a crop of this size, in pixels of the image."""
    return min(height, width) * (size / _resized(size, crop))


def _resized(size: int, crop: float | None) -> int:
    """The length of the short side after resizing."""
    return round(size / _share(size)) if crop is None else math.floor(size / crop)  # timm rounds down


def _short(number: float) -> str:
    return f"{number:.4g}".removeprefix("0") or "0"
