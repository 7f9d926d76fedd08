"""Small images that are decoded once and stored on the device, so that workers only send parameters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from coterie.data.decoding.decode import decode
from coterie.data.decoding.pixels import ValueRange
from coterie.data.loading.workers import decode_images, worker_batches
from coterie.data.sources.source import ImageSource, sample_indices
from coterie.errors import BadImage, UserError
from coterie.signals import check_interrupted

MAX_BYTES = 4 * 2**30
"""Images that take more bytes are not stored on the device, nor those that take over a quarter of a GPU's memory."""
_SAMPLE = 32  # images whose shapes are compared before all are decoded
_CHUNK = 512  # images per request to a worker

ShowProgress = Callable[[Iterable[Any], int, str], Iterator[Any]]
"""Passes on an iterable while showing progress, given its length and a description."""


class _DecodedDataset(Dataset[Any]):
    """In a worker: decodes images to ``[b, C, H, W]``, or None if the shape of one differs."""

    def __init__(self, source: ImageSource, shape: tuple[int, ...], value_range: ValueRange | None) -> None:
        self.source, self.shape, self.value_range = source, shape, value_range

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> tuple[Tensor | None, list[tuple[int, str]]] | UserError:
        bad: list[tuple[int, str]] = []
        pixels = np.empty((len(indices), *self.shape), dtype=np.uint8)
        try:
            images = decode_images(self.source, indices, self.shape[2], bad, value_range=self.value_range)
            for row, image in enumerate(images):
                if image.shape != self.shape or image.dtype != np.uint8:
                    return None, bad
                pixels[row] = image
        except UserError as error:
            return error
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))), bad


def load_device_images(
    source: ImageSource,
    channels: int,
    device: torch.device,
    *,
    workers: int = 0,
    show_progress: ShowProgress | None = None,
    value_range: ValueRange | None = None,
) -> tuple[Tensor, list[tuple[int, str]]] | None:
    """Decode all images of a source and move them to the device, if they are small and of one size.

    An image that cannot be decoded is replaced by the next one that can.

    Args:
        source: The images.
        channels: Number of channels to decode.
        device: Device on which to store the images.
        workers: Number of worker processes; 0: this process.
        show_progress: Shows the progress of decoding.
        value_range: As of `coterie.data.decoding.decode.decode`.

    Returns:
        The images, uint8 ``[N, C, H, W]``, and (position, reason) of each that cannot be decoded. None if images differ in
        size, have more than 8 bits, or take too much memory; a sample is checked before all are decoded.
    """
    shape = _common_shape(source, channels, value_range)
    limit = MAX_BYTES
    if device.type == "cuda":
        limit = min(limit, torch.cuda.get_device_properties(device).total_memory // 4)
    if shape is None or len(source) * np.prod(shape) > limit:
        return None
    order = np.arange(len(source))
    requests = [order[first : first + _CHUNK] for first in range(0, len(order), _CHUNK)]
    dataset = _DecodedDataset(source, shape, value_range)
    parts: Iterable[Any] = worker_batches(dataset, iter(requests), workers, torch.device("cpu"))
    if show_progress is not None:
        parts = show_progress(parts, len(requests), "decoding the images, once")
    bad: list[tuple[int, str]] = []
    images = torch.empty((len(source), shape[2], *shape[:2]), dtype=torch.uint8)
    filled = 0
    for pixels, failed in parts:
        check_interrupted()
        if pixels is None:
            return None
        bad += failed
        images[filled : filled + len(pixels)] = pixels
        filled += len(pixels)
    return images.to(device), sorted(dict(bad).items())


def _common_shape(source: ImageSource, channels: int, value_range: ValueRange | None) -> tuple[int, ...] | None:
    """The shape ``[H, W, C]`` of all images of a sample; None if they differ, or have more than 8 bits."""
    shapes = set()
    for index in sample_indices(_SAMPLE, source):
        try:
            image = decode(source[int(index)], channels, value_range=value_range)
        except BadImage:
            continue
        shapes.add((image.dtype, image.shape))
    if len(shapes) != 1:
        return None
    dtype, shape = shapes.pop()
    return shape if dtype == np.uint8 else None
