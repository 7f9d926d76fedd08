"""Whole images, for embedding and judging: the middle of each, once, in the source's order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import normalize
from coterie.data.augmentation.jpeg_scale import whole_shrink
from coterie.data.decoding.decode import decode
from coterie.data.loading.workers import WorkerBatch, stacked, worker_batches
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage
from coterie.types import Batch


class _Centers(Dataset[Any]):
    """In a worker: indices -> the middle of each image."""

    def __init__(self, source: ImageSource, size: int, channels: int) -> None:
        self.source, self.size, self.channels = source, size, channels

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> WorkerBatch:
        kept, images, bad = [], [], []
        for index in indices:
            try:
                images.append(center_view(decode(self.source[int(index)], self.channels, self._shrink), self.size))
                kept.append(index)
            except BadImage as error:
                bad.append((int(index), str(error)))
        views = {0: stacked(images)} if images else {}
        return WorkerBatch(torch.tensor(kept, dtype=torch.int64), views, bad=tuple(bad))

    def _shrink(self, height: int, width: int) -> int:
        return whole_shrink(_side(height, width, self.size), self.size)


def center_batches(
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
    """All images of a source in its order, each once: its middle, normalized, as the one view of a batch.

    Images that cannot be decoded are left out and told in ``bad``.
    """
    order = np.arange(len(source))
    requests = (order[first : first + batch_size] for first in range(0, len(source), batch_size))
    device = torch.device(device)
    for made in worker_batches(_Centers(source, size, channels), requests, workers, device):
        views = {
            number: normalize(view.to(device, non_blocking=True), mean, std) for number, view in made.pixels.items()
        }
        yield Batch(made.index, views, made.bad)


def _side(height: int, width: int, size: int) -> float:
    """Of the middle square that becomes a view of this size."""
    return min(height, width) * (size / round(size / 0.875) if size >= 96 else 1.0)


def center_view(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image ``[H, W, C]`` as ``[C, size, size]``.

    The short side is brought to ``size / 0.875`` (256 for 224), or to ``size`` itself for small images (size below 96), and
    the middle square is taken: the usual protocol.
    """
    height, width, _ = image.shape
    side = _side(height, width, size)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return np.ascontiguousarray(resized.reshape(size, size, -1).transpose(2, 0, 1))
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    planes = [Image.fromarray(image[:, :, c].astype(np.float32) * scale) for c in range(image.shape[2])]
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR, box=box)) for p in planes])


@dataclass(frozen=True)
class Preprocessing:
    """How images are brought to a network: cut from the middle to ``size``, so many ``channels``, normalized."""

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
