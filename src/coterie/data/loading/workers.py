"""Worker processes: what they are asked for, what they make, and how it is returned."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from coterie.data.augmentation.cpu import augment_crops_batch, crop_batch
from coterie.data.augmentation.gpu import pack_parameters, places_by_size
from coterie.data.augmentation.jpeg_scale import crops_downscale
from coterie.data.augmentation.parameters import ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.decode import Downscale, decode
from coterie.data.decoding.pixels import ValueRange
from coterie.data.loading.worker_watchdog import exit_on_unsent_result, watch_workers
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage, NoImages, UserError
from coterie.signals import SIGNALS

_MAX_BAD_IN_A_ROW = 10_000


class BatchRequest(NamedTuple):
    """What a worker is asked for: some views of some images.

    Attributes:
        epoch: Epoch; -1 is the pass that fills the memory.
        indices: Positions of the images in their source.
        views: Numbers of the views.
    """

    epoch: int
    indices: Int[np.ndarray, " b"]
    views: tuple[int, ...]


@dataclass(frozen=True)
class WorkerBatch:
    """What a worker returns: pixels that are not normalized yet.

    Attributes:
        index: Position of each image in its source.
        pixels: Without parameters, finished views ``[B, C, size, size]`` by number. With parameters, crops
            ``[n, B, C, size, size]`` of the n views of each size, by size; empty if the images are stored on the device.
        parameters: Packed parameters ``[V, B, columns]`` to apply on the device; None: only normalize.
        views: Numbers of the views.
        bad: (position, reason) of each image that could not be decoded.
    """

    index: Int[Tensor, " b"]
    pixels: Mapping[int, Tensor]
    parameters: Tensor | None = None
    views: tuple[int, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()

    def pin_memory(self) -> "WorkerBatch":
        """Called by torch's DataLoader, so that copies to the device overlap with its work."""
        pixels = {key: each.pin_memory() for key, each in self.pixels.items()}
        parameters = None if self.parameters is None else self.parameters.pin_memory()
        return WorkerBatch(self.index.pin_memory(), pixels, parameters, self.views, self.bad)


class ViewDataset(Dataset[Any]):
    """In a worker: makes finished views (``views.engine = 'cpu'``)."""

    def __init__(self, source: ImageSource, plan: ViewPlan, seed: int) -> None:
        self.source, self.plan, self.seed = source, plan, seed

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        crops, parameters, bad = _crops(self.source, self.plan, self.seed, request)
        return _view_batch(request, augment_crops_batch(crops, parameters, request.views), bad)


class CropDataset(Dataset[Any]):
    """In a worker: makes crops and the parameters to apply to them on the device (``views.engine = 'gpu'``)."""

    def __init__(self, source: ImageSource, plan: ViewPlan, seed: int) -> None:
        self.source, self.plan, self.seed = source, plan, seed

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        crops, parameters, bad = _crops(self.source, self.plan, self.seed, request)
        if any(each.dtype != np.uint8 for view in crops for each in view):  # 16 bits: finer than the device's integers
            return _view_batch(request, augment_crops_batch(crops, parameters, request.views), bad)
        pixels = {
            size: torch.from_numpy(np.stack([np.stack(crops[place]) for place in places]))
            for size, places in places_by_size(self.plan, request.views).items()
        }
        packed = torch.from_numpy(pack_parameters(parameters, request.views))
        return WorkerBatch(torch.from_numpy(request.indices), pixels, packed, request.views, tuple(bad))


class ParameterDataset(Dataset[Any]):
    """In a worker: makes only the parameters to apply to images that are stored on the device."""

    def __init__(self, plan: ViewPlan, seed: int, image_size: tuple[int, int]) -> None:
        self.plan, self.seed, self.image_size = plan, seed, image_size

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        parameters = self.plan.sample_parameters(self.seed, request.epoch, request.indices)
        packed = torch.from_numpy(pack_parameters(parameters, request.views, self.image_size))
        return WorkerBatch(torch.from_numpy(request.indices), {}, packed, request.views)


def _crops(
    source: ImageSource, plan: ViewPlan, seed: int, request: BatchRequest
) -> tuple[list[list[np.ndarray]], ViewParameters, list[tuple[int, str]]]:
    """The crops of each view of the requested images, the parameters of what follows, and the bad images."""
    bad: list[tuple[int, str]] = []
    parameters = plan.sample_parameters(seed, request.epoch, request.indices)
    images = decode_images(source, request.indices, plan.channels, bad, _downscales(plan, parameters), plan.range)
    return crop_batch(images, plan, parameters, request.views), parameters, bad


def _view_batch(request: BatchRequest, views: list[list[np.ndarray]], bad: list[tuple[int, str]]) -> WorkerBatch:
    pixels = {number: stack_images(view) for number, view in zip(request.views, views, strict=True)}
    return WorkerBatch(torch.from_numpy(request.indices), pixels, None, request.views, tuple(bad))


def _downscales(plan: ViewPlan, parameters: ViewParameters) -> Callable[[int], Downscale]:
    return lambda row: partial(crops_downscale, plan, parameters, row)


def decode_images(
    source: ImageSource,
    indices: Int[np.ndarray, " b"],
    channels: int,
    bad: list[tuple[int, str]],
    downscales: Callable[[int], Downscale] | None = None,
    value_range: ValueRange | None = None,
) -> Iterator[np.ndarray]:
    """Decode images one by one; each that cannot be decoded is replaced by the next one in the source that can.

    Args:
        source: The images.
        indices: Positions of the images to decode.
        channels: Number of channels to decode.
        bad: List to which (position, reason) of each bad image is appended.
        downscales: For each row of ``indices``, how far its image may be downscaled in decoding; None: full size.
        value_range: As of `coterie.data.decoding.decode.decode`.

    Raises:
        NoImages: Thousands in a row cannot be decoded.
    """
    for row, index in enumerate(indices):
        downscale = downscales(row) if downscales else None
        image, failed = _decode_next(source, int(index), channels, downscale, value_range)
        bad += failed
        yield image


def _decode_next(
    source: ImageSource, index: int, channels: int, downscale: Downscale | None, value_range: ValueRange | None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    bad: list[tuple[int, str]] = []
    for offset in range(min(len(source), _MAX_BAD_IN_A_ROW)):
        position = (index + offset) % len(source)
        try:
            return decode(source[position], channels, downscale, value_range), bad
        except BadImage as error:
            bad.append((position, str(error)))
    here = "" if get_worker_info() is None else "; if only loader processes cannot read them, set run.workers=0"
    raise NoImages(f"{len(bad)} images in a row cannot be decoded, the first: {source.name(index)}: {bad[0][1]}{here}")


def stack_images(images: Sequence[np.ndarray]) -> Tensor:
    """Stack images of one shape: uint8, or float32 in [0, 1] if any of them has 16 bits."""
    if len({image.dtype for image in images}) > 1:
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    batch = np.empty((len(images), *images[0].shape), dtype=images[0].dtype)
    np.stack(images, out=batch)  # alone it would keep the order in memory of the images
    return torch.from_numpy(batch)


def worker_batches(dataset: Dataset[Any], requests: Iterator[Any], workers: int, device: torch.device) -> Iterator[Any]:
    """Yield the dataset's answers to some requests, in order, computed by worker processes.

    Args:
        dataset: Indexed with the requests.
        requests: The requests, consumed a few ahead.
        workers: Number of worker processes; 0: this process.
        device: Device to which answers will be moved: memory is pinned for CUDA.

    Raises:
        UserError: A worker raised it, was killed, is out of memory, or hangs.
    """
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsValues(dataset),
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # sources and names are shared, not copied
        pin_memory=device.type == "cuda",
        collate_fn=_identity,
        worker_init_fn=_init_worker,
    )
    for batch in watch_workers(loader):
        if isinstance(batch, UserError):
            raise batch
        yield batch


class _ErrorsAsValues(Dataset[Any]):
    """Returns a dataset's user errors as values: torch would add the worker's traceback to an exception."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.dataset[request]
        except UserError as error:
            return error
        except MemoryError:
            return UserError("not enough memory to load the images: use fewer loader workers (--set run.workers=...)")


def _init_worker(worker: int) -> None:
    """Signals of a terminal or a scheduler reach the workers too; they are for the run, which ends its workers."""
    exit_on_unsent_result()
    sys.excepthook = _quiet_if_the_run_left
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _quiet_if_the_run_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's thread that hands memory over would print a traceback when a run that was stopped leaves meanwhile."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _identity(item: Any) -> Any:
    return item
