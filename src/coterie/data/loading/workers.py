"""Worker processes: what they are asked for, what they make of it, and how it comes back."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.augmentation.cpu import augment_crops_batch, crop_batch
from coterie.data.augmentation.gpu import pack, sizes
from coterie.data.augmentation.jpeg_scale import crops_shrink
from coterie.data.augmentation.parameters import ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.decode import Shrink, decode
from coterie.data.loading.worker_watchdog import die_of_unsent_work, watched
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage, NoImages, UserError

WORKER_GRACE_SECONDS = 20
"""How long a loader worker goes on after a SIGTERM."""
_MOST_BAD_IN_A_ROW = 10_000


class BatchRequest(NamedTuple):
    """What a worker is asked for: these views of these images."""

    epoch: int
    indices: Int[np.ndarray, " b"]
    views: tuple[int, ...]


@dataclass(frozen=True)
class WorkerBatch:
    """What a worker sends back: pixels that are not normalized yet.

    Attributes:
        index: of each image in its source.
        pixels: finished views ``[B, C, side, side]`` by number; or, where there are parameters, crops
            ``[n, B, C, side, side]`` by size (none if the images live on the device).
        parameters: ``[V, B, columns]``, what the device is to do; None: nothing but normalize.
        views: their numbers.
        bad: (position, reason) of images that could not be decoded.
    """

    index: Int[Tensor, " b"]
    pixels: Mapping[int, Tensor]
    parameters: Tensor | None = None
    views: tuple[int, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()

    def pin_memory(self) -> "WorkerBatch":
        """Called by torch's loader, so that copies to the device overlap with work on it."""
        pixels = {key: each.pin_memory() for key, each in self.pixels.items()}
        parameters = None if self.parameters is None else self.parameters.pin_memory()
        return WorkerBatch(self.index.pin_memory(), pixels, parameters, self.views, self.bad)


class ViewDataset(Dataset[Any]):
    """In a worker: a request -> finished views (``views.engine = 'cpu'``)."""

    def __init__(self, source: ImageSource, plan: ViewPlan, seed: int) -> None:
        self.source, self.plan, self.seed = source, plan, seed

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        bad: list[tuple[int, str]] = []
        draws = self.plan.sample_parameters(self.seed, request.epoch, request.indices)
        images = decoded(self.source, request.indices, self.plan.channels, bad, _shrinks(self.plan, draws))
        cuts = crop_batch(images, self.plan, draws, request.views)
        return _finished(request, augment_crops_batch(cuts, draws, request.views), bad)


class CropDataset(Dataset[Any]):
    """In a worker: a request -> crops, and what the device is to do with them (``views.engine = 'gpu'``)."""

    def __init__(self, source: ImageSource, plan: ViewPlan, seed: int) -> None:
        self.source, self.plan, self.seed = source, plan, seed

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        bad: list[tuple[int, str]] = []
        draws = self.plan.sample_parameters(self.seed, request.epoch, request.indices)
        images = decoded(self.source, request.indices, self.plan.channels, bad, _shrinks(self.plan, draws))
        cuts = crop_batch(images, self.plan, draws, request.views)
        if any(
            each.dtype != np.uint8 for view in cuts for each in view
        ):  # 16 bits: finer than the device's whole numbers
            return _finished(request, augment_crops_batch(cuts, draws, request.views), bad)
        crops = {
            size: torch.from_numpy(np.stack([np.stack(cuts[place]) for place in places]))
            for size, places in sizes(self.plan, request.views).items()
        }
        parameters = torch.from_numpy(pack(draws, request.views))
        return WorkerBatch(torch.from_numpy(request.indices), crops, parameters, request.views, tuple(bad))


class ParameterDataset(Dataset[Any]):
    """In a worker: a request -> what the device is to do with images that it has already."""

    def __init__(self, plan: ViewPlan, seed: int, image_size: tuple[int, int]) -> None:
        self.plan, self.seed, self.image_size = plan, seed, image_size

    def __getitem__(self, request: BatchRequest) -> WorkerBatch:
        draws = self.plan.sample_parameters(self.seed, request.epoch, request.indices)
        parameters = torch.from_numpy(pack(draws, request.views, self.image_size))
        return WorkerBatch(torch.from_numpy(request.indices), {}, parameters, request.views)


def _finished(request: BatchRequest, views: list[list[np.ndarray]], bad: list[tuple[int, str]]) -> WorkerBatch:
    pixels = {number: stacked(view) for number, view in zip(request.views, views, strict=True)}
    return WorkerBatch(torch.from_numpy(request.indices), pixels, None, request.views, tuple(bad))


def _shrinks(plan: ViewPlan, draws: ViewParameters) -> Callable[[int], Shrink]:
    return lambda row: partial(crops_shrink, plan, draws, row)


def decoded(
    source: ImageSource,
    indices: Int[np.ndarray, " b"],
    channels: int,
    bad: list[tuple[int, str]],
    shrinks: Callable[[int], Shrink] | None = None,
) -> Iterator[np.ndarray]:
    """The images, one by one; the place of one that cannot be decoded goes to the next that can, and it is told in ``bad``.

    Args:
        source: of encoded images.
        indices: those that are wanted.
        channels: of each.
        bad: (position, reason) are added to it.
        shrinks: for a row of ``indices``, how far its image may be reduced in decoding; None: not at all.

    Raises:
        NoImages: thousands in a row cannot be decoded.
    """
    for row, index in enumerate(indices):
        image, failed = _decodable(source, int(index), channels, shrinks(row) if shrinks else None)
        bad += failed
        yield image


def _decodable(
    source: ImageSource, index: int, channels: int, shrink: Shrink | None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    bad: list[tuple[int, str]] = []
    for offset in range(min(len(source), _MOST_BAD_IN_A_ROW)):
        place = (index + offset) % len(source)
        try:
            return decode(source[place], channels, shrink), bad
        except BadImage as error:
            bad.append((place, str(error)))
    raise NoImages(f"{len(bad)} images in a row cannot be decoded, the first: {source.name(index)}: {bad[0][1]}")


def stacked(views: Sequence[np.ndarray]) -> Tensor:
    """One view of several images ``[B, C, H, W]``: uint8, or from 0 to 1 as soon as one of them has 16 bits."""
    if len({view.dtype for view in views}) > 1:
        views = [view / np.float32(255) if view.dtype == np.uint8 else view for view in views]
    return torch.from_numpy(np.stack(views))


def worker_batches(dataset: Dataset[Any], requests: Iterator[Any], workers: int, device: torch.device) -> Iterator[Any]:
    """What the workers make of the requests, in order.

    Raises:
        UserError: what a worker gave instead of a result; or a worker was killed, has no memory, or hangs.
    """
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsValues(dataset),
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # sources and names are shared, not copied
        pin_memory=device.type == "cuda",
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
    )
    for made in watched(loader):
        if isinstance(made, UserError):
            raise made
        yield made


class _ErrorsAsValues(Dataset[Any]):
    """A dataset that gives what a person can mend as a value: an exception would arrive with the worker's traceback in it."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.dataset[request]
        except UserError as error:
            return error
        except MemoryError:
            return UserError(
                "the memory is not enough for the images: use fewer loader workers (--set run.workers=...)"
            )


def _begin(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the workers too; they go on for a while, so that the run can save."""
    die_of_unsent_work()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))  # then the alarm ends the worker


def _as_it_is(item: Any) -> Any:
    return item
