"""Center crops for embedding and evaluation: each image of a source once, in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import normalize
from coterie.data.augmentation.jpeg_scale import square_downscale
from coterie.data.decoding.decode import decode
from coterie.data.loading.workers import WorkerBatch, stack_images, worker_batches
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage
from coterie.types import Batch


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images: center crops, normalized.

    Attributes:
        size: Height and width in pixels.
        channels: Number of channels.
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def center_crop_batches(
    source: ImageSource,
    *,
    size: int,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
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
        batch_size: Images per batch; the last batch may be smaller.
        workers: Number of worker processes; 0: this process.
        device: Device of the batches.
    """
    order = np.arange(len(source))
    requests = (order[first : first + batch_size] for first in range(0, len(source), batch_size))
    device = torch.device(device)
    for batch in worker_batches(_CenterCropDataset(source, size, channels), requests, workers, device):
        views = {
            number: normalize(view.to(device, non_blocking=True), mean, std) for number, view in batch.pixels.items()
        }
        yield Batch(batch.index, views, batch.bad)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The center crop of an image.

    The usual protocol: the short side is resized to ``size / 0.875`` (256 for 224), or to ``size`` itself for sizes below
    96, and the central square is cropped.

    Args:
        image: ``[H, W, C]``, uint8 or uint16.
        size: Height and width of the crop, in pixels.

    Returns:
        ``[C, size, size]``: uint8 for 8-bit images of 1 or 3 channels, otherwise float32 in [0, 1].
    """
    height, width, _ = image.shape
    side = _square_side(height, width, size)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return np.ascontiguousarray(resized.reshape(size, size, -1).transpose(2, 0, 1))
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    planes = [Image.fromarray(image[:, :, c].astype(np.float32) * scale) for c in range(image.shape[2])]
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR, box=box)) for p in planes])


class _CenterCropDataset(Dataset[Any]):
    """In a worker: makes the center crops of the images at some positions."""

    def __init__(self, source: ImageSource, size: int, channels: int) -> None:
        self.source, self.size, self.channels = source, size, channels

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> WorkerBatch:
        decoded, crops, bad = [], [], []
        for index in indices:
            try:
                crops.append(center_crop(decode(self.source[int(index)], self.channels, self._downscale), self.size))
                decoded.append(index)
            except BadImage as error:
                bad.append((int(index), str(error)))
        views = {0: stack_images(crops)} if crops else {}
        return WorkerBatch(torch.tensor(decoded, dtype=torch.int64), views, bad=tuple(bad))

    def _downscale(self, height: int, width: int) -> int:
        return square_downscale(_square_side(height, width, self.size), self.size)


def _square_side(height: int, width: int, size: int) -> float:
    """The side of the central square that becomes a crop of this size, in pixels of the image."""
    return min(height, width) * (size / round(size / 0.875) if size >= 96 else 1.0)
