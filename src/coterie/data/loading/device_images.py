"""Small images that live on the device, decoded once: what follows needs no loader but for numbers."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from coterie.data.decoding.decode import decode
from coterie.data.loading.workers import decoded, worker_batches
from coterie.data.sources.source import ImageSource, sampled
from coterie.errors import BadImage, UserError

MOST_BYTES = 4 * 2**30
"""Images that take more than this are not kept, nor those that take more than a quarter of a GPU's memory."""
_LOOKED_AT = 32
_CHUNK = 512

Track = Callable[[Iterable[Any], int, str], Iterator[Any]]


class _Decoded(Dataset[Any]):
    """In a worker: indices -> pixels ``[b, C, H, W]``, or None if one of them has another shape."""

    def __init__(self, source: ImageSource, shape: tuple[int, ...]) -> None:
        self.source, self.shape = source, shape

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> tuple[Tensor | None, list[tuple[int, str]]] | UserError:
        bad: list[tuple[int, str]] = []
        pixels = np.empty((len(indices), *self.shape), dtype=np.uint8)
        try:
            for row, image in enumerate(decoded(self.source, indices, self.shape[2], bad)):
                if image.shape != self.shape or image.dtype != np.uint8:
                    return None, bad
                pixels[row] = image
        except UserError as error:
            return error
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), bad


def resident_images(
    source: ImageSource, channels: int, device: torch.device, *, workers: int = 0, track: Track | None = None
) -> tuple[Tensor, list[tuple[int, str]]] | None:
    """All images as uint8 ``[N, C, H, W]`` on the device, and (position, reason) of those that cannot be decoded.

    The place of one that cannot be decoded is taken by the next that can. None where the images are not all of one size
    and of 8 bits, or would take too much memory; a few are looked at before all are decoded.
    """
    shape = _common_shape(source, channels)
    most = MOST_BYTES
    if device.type == "cuda":
        most = min(most, torch.cuda.get_device_properties(device).total_memory // 4)
    if shape is None or len(source) * np.prod(shape) > most:
        return None
    order = np.arange(len(source))
    requests = [order[first : first + _CHUNK] for first in range(0, len(order), _CHUNK)]
    parts: Iterable[Any] = worker_batches(_Decoded(source, shape), iter(requests), workers, torch.device("cpu"))
    if track is not None:
        parts = track(parts, len(requests), "decoding the images, once")
    bad: list[tuple[int, str]] = []
    images = torch.empty((len(source), shape[2], *shape[:2]), dtype=torch.uint8)
    filled = 0
    for pixels, failed in parts:
        if pixels is None:
            return None
        bad += failed
        images[filled : filled + len(pixels)] = pixels
        filled += len(pixels)
    return images.to(device), sorted(dict(bad).items())


def _common_shape(source: ImageSource, channels: int) -> tuple[int, ...] | None:
    """The shape ``[H, W, C]`` that some images have in common; None if they differ, or have more than 8 bits."""
    found = set()
    for index in sampled(_LOOKED_AT, source):
        try:
            image = decode(source[int(index)], channels)
        except BadImage:
            continue
        found.add((image.dtype, image.shape))
    if len(found) != 1:
        return None
    dtype, shape = found.pop()
    return shape if dtype == np.uint8 else None
