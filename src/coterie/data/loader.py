"""From a source to batches: the order of images, and worker processes that decode and cut them."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coterie.data.cpu import apply_batch, normalize
from coterie.data.decode import decode
from coterie.data.source import ImageSource
from coterie.data.views import ViewPlan
from coterie.errors import BadImage, NoImages, UserError
from coterie.types import Batch, Progress

_ORDER_TAG = 0x6F72646572  # "order": keeps this stream apart from that of the views
_MOST_BAD_IN_A_ROW = 10_000
_FILLING = -1  # the epoch of the pass before the first
WORKER_GRACE_SECONDS = 20
"""How long a loader worker goes on after a SIGTERM."""


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " n"]:
    """The order of the images in an epoch (-1: the filling pass): a permutation that depends on nothing but (seed, epoch)."""
    key = np.array([(seed ^ _ORDER_TAG) % 2**64, epoch % 2**64], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.permutation(count)


@dataclass(frozen=True)
class _Cut:
    """What a worker sends back: uint8 (or float) views, not normalised yet."""

    index: Int[np.ndarray, " b"]
    views: Mapping[int, Tensor]
    bad: list[tuple[int, str]]

    def pin_memory(self) -> "_Cut":
        """Called by torch's loader, so that copies to the device overlap with work on it."""
        return _Cut(self.index, {number: view.pin_memory() for number, view in self.views.items()}, self.bad)


class _Request(NamedTuple):
    """What a worker is asked for."""

    epoch: int
    indices: Int[np.ndarray, " b"]
    views: tuple[int, ...]


class _Views(Dataset[Any]):
    """In a worker: a request -> the views of its images."""

    def __init__(self, source: ImageSource, plan: ViewPlan, seed: int) -> None:
        self.source, self.plan, self.seed = source, plan, seed

    def __getitem__(self, request: _Request) -> _Cut | UserError:
        bad: list[tuple[int, str]] = []
        draws = self.plan.draw(self.seed, request.epoch, request.indices)
        try:
            views = apply_batch(self._images(request.indices, bad), self.plan, draws, request.views)
        except UserError as error:  # as a value: an exception would arrive with the worker's traceback in its message
            return error
        stacked = {number: _stacked(view) for number, view in zip(request.views, views, strict=True)}
        return _Cut(request.indices, stacked, bad)

    def _images(self, indices: Int[np.ndarray, " b"], bad: list[tuple[int, str]]) -> Iterator[np.ndarray]:
        for index in indices:
            image, failed = _decodable(self.source, int(index), self.plan.channels)
            bad += failed
            yield image


def _decodable(source: ImageSource, index: int, channels: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The image at ``index``, or the next that can be decoded, so that a batch keeps its size; and what was passed over."""
    bad: list[tuple[int, str]] = []
    for offset in range(min(len(source), _MOST_BAD_IN_A_ROW)):
        place = (index + offset) % len(source)
        try:
            return decode(source[place], channels), bad
        except BadImage as error:
            bad.append((place, str(error)))
    raise NoImages(f"{len(bad)} images in a row cannot be decoded, the first: {source.name(index)}: {bad[0][1]}")


def _stacked(views: Sequence[np.ndarray]) -> Tensor:
    """One view of several images ``[B, C, H, W]``: uint8, or from 0 to 1 as soon as one of them has 16 bits."""
    if len({view.dtype for view in views}) > 1:
        views = [view / np.float32(255) if view.dtype == np.uint8 else view for view in views]
    return torch.from_numpy(np.stack(views))


class Loader:
    """Batches of views for a whole run.

    Step s of an epoch takes the positions ``[s * batch_size, (s + 1) * batch_size)`` of that epoch's order; what does not
    fill a last batch is left out of that epoch. Which images and which views come is a pure function of the seed and the
    step, so a run goes on anywhere, with any number of workers. Only the views that somebody looks at are made.
    """

    def __init__(
        self,
        source: ImageSource,
        plan: ViewPlan,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Nothing is read before the first batch is asked for."""
        if batch_size > len(source):
            raise UserError(
                f"{len(source)} images are fewer than one batch of {batch_size}: use --batch-size {len(source)} or less"
            )
        self.source, self.plan, self.seed = source, plan, seed
        self.batch_size, self.workers, self.device = batch_size, workers, torch.device(device)
        self.steps_per_epoch = len(source) // batch_size
        self.total_steps = epochs * self.steps_per_epoch

    def once(self) -> Iterator[tuple[Progress, Batch]]:
        """One pass over the images before the first epoch, to fill a memory: the grouped views only.

        Its order and its draws are those of an epoch of its own (-1); its steps count from 0, and are none of the run's.
        """
        views = self.plan.roles.grouped_views
        return self._batches((_Request(_FILLING, indices, views) for indices in self._slices(_FILLING)), 0)

    def resume(self, start: int = 0) -> Iterator[tuple[Progress, Batch]]:
        """The batches from step ``start`` to the end of the run, on the device, normalised: the views that a step uses."""
        return self._batches(self._requests(start), start)

    def _requests(self, start: int) -> Iterator[_Request]:
        for epoch in range(start // self.steps_per_epoch, self.total_steps // self.steps_per_epoch):
            for step, indices in enumerate(self._slices(epoch), start=epoch * self.steps_per_epoch):
                if step >= start:
                    yield _Request(epoch, indices, self.plan.roles.at(self._progress(step)).used)

    def _slices(self, epoch: int) -> Iterator[Int[np.ndarray, " b"]]:
        order = epoch_order(self.seed, epoch, len(self.source))
        for first in range(0, self.steps_per_epoch * self.batch_size, self.batch_size):
            yield order[first : first + self.batch_size]

    def _batches(self, requests: Iterator[_Request], start: int) -> Iterator[tuple[Progress, Batch]]:
        assert self.plan.mean is not None
        assert self.plan.std is not None
        dataset = _Views(self.source, self.plan, self.seed)
        for step, cut in enumerate(_fetch(dataset, requests, self.workers, self.device), start=start):
            index = torch.from_numpy(cut.index).to(self.device, non_blocking=True)
            views = {number: view.to(self.device, non_blocking=True) for number, view in cut.views.items()}
            normalized = {number: normalize(view, self.plan.mean, self.plan.std) for number, view in views.items()}
            yield self._progress(step), Batch(index, normalized, tuple(cut.bad))

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps_per_epoch, self.total_steps)


class _Centers(Dataset[Any]):
    """In a worker: indices -> the middle of each image."""

    def __init__(self, source: ImageSource, size: int, channels: int) -> None:
        self.source, self.size, self.channels = source, size, channels

    def __getitem__(self, indices: Int[np.ndarray, " b"]) -> _Cut:
        kept, images, bad = [], [], []
        for index in indices:
            try:
                images.append(center_view(decode(self.source[int(index)], self.channels), self.size))
                kept.append(index)
            except BadImage as error:
                bad.append((int(index), str(error)))
        views = {0: _stacked(images)} if images else {}
        return _Cut(np.array(kept, dtype=np.int64), views, bad)


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
    """All images of a source in its order, each once: its middle, normalised, as the one view of a batch.

    Images that cannot be decoded are left out and told in ``bad``.
    """
    order = np.arange(len(source))
    requests = (order[first : first + batch_size] for first in range(0, len(source), batch_size))
    device = torch.device(device)
    for cut in _fetch(_Centers(source, size, channels), requests, workers, device):
        views = {number: normalize(view.to(device, non_blocking=True), mean, std) for number, view in cut.views.items()}
        yield Batch(torch.from_numpy(cut.index), views, tuple(cut.bad))


def center_view(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image ``[H, W, C]`` as ``[C, size, size]``.

    The short side is brought to ``size / 0.875`` (256 for 224), or to ``size`` itself for small images (size below 96), and
    the middle square is taken: the usual protocol.
    """
    height, width, _ = image.shape
    side = min(height, width) * (size / round(size / 0.875) if size >= 96 else 1.0)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
        resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))
        return np.ascontiguousarray(resized.reshape(size, size, -1).transpose(2, 0, 1))
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    planes = [Image.fromarray(image[:, :, c].astype(np.float32) * scale) for c in range(image.shape[2])]
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR, box=box)) for p in planes])


def _fetch(dataset: Dataset[Any], requests: Iterator[Any], workers: int, device: torch.device) -> Iterator[_Cut]:
    """What the workers make of the requests, in order."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # sources and names are shared, not copied
        pin_memory=device.type == "cuda",
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_run,
    )
    try:
        for cut in loader:
            if isinstance(cut, UserError):
                raise cut
            yield cut
    except RuntimeError as error:
        if "is killed by signal" not in str(error) and "exited unexpectedly" not in str(error):
            raise
        raise UserError(
            "a loader worker was killed, most often for want of memory: use fewer (--set run.workers=...); "
            "the same command goes on from the last checkpoint"
        ) from error


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the workers too; they go on for a while, so that the run can save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_SECONDS))  # then the alarm ends the worker


def _as_it_is(item: Any) -> Any:
    return item
