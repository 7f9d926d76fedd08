"""From a source to batches: the order of images, and the way of their pixels to the device."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import normalize
from coterie.data.augmentation.gpu import GpuAugmenter
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.device_images import Track, resident_images
from coterie.data.loading.prefetch import WindowPrefetcher
from coterie.data.loading.sampler import BlockShuffleSampler
from coterie.data.loading.workers import (
    BatchRequest,
    CropDataset,
    ParameterDataset,
    ViewDataset,
    WorkerBatch,
    worker_batches,
)
from coterie.data.sources.source import ImageSource, Prefetchable, blocks
from coterie.errors import UserError
from coterie.types import Batch, Progress

_FILLING = -1  # the epoch of the pass before the first


class Loader:
    """Batches of views for a whole run.

    Step s of an epoch takes the positions ``[s * batch_size, (s + 1) * batch_size)`` of that epoch's order
    (:mod:`coterie.data.loading.sampler`); what does not fill a last batch is left out of that epoch. A run of so many
    ``images`` may end in the middle of an epoch. Which images and which views come is a pure function of the seed and the
    step, so a run goes on anywhere, with any number of workers. Only the views that somebody looks at are made.

    With the engine ``cpu`` workers make the views whole. With ``gpu`` they decode and crop, and the rest is done to a
    whole batch where the network is; small images of one size are decoded once and live there, and workers send nothing
    but numbers.
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
        engine: Literal["cpu", "gpu"] = "cpu",
        rank: int = 0,
        world: int = 1,
        images: int | None = None,
    ) -> None:
        """Nothing is read before the first batch is asked for; ``images``: the run ends after so many, if not before."""
        if batch_size > len(source):
            raise UserError(
                f"{len(source)} images are fewer than one batch of {batch_size}: use --batch-size {len(source)} or less"
            )
        if batch_size % world:
            raise UserError(
                f"a batch of {batch_size} cannot be shared out to {world} processes: use --batch-size "
                f"{max(1, round(batch_size / world)) * world}"
            )
        self.source, self.plan, self.seed = source, plan, seed
        self.rank, self.world = rank, world
        self.batch_size, self.workers, self.device = batch_size, workers, torch.device(device)
        self.engine = engine
        self.steps_per_epoch = len(source) // batch_size
        self.total_steps = epochs * self.steps_per_epoch
        if images is not None:
            self.total_steps = min(self.total_steps, max(1, images // batch_size))
        self.order = BlockShuffleSampler(seed, blocks(source))
        self.applier: GpuAugmenter | None = None
        self.images: Tensor | None = None
        self._bad: tuple[tuple[int, str], ...] = ()
        self._prepared = False

    def prepare(self, track: Track | None = None) -> None:
        """With the engine ``gpu``: bring small images there; done by itself before the first batch.

        Args:
            track: shows the progress through an iterable of a length.
        """
        if self._prepared:
            return
        self._prepared = True
        if self.engine == "gpu":
            self.applier = GpuAugmenter(self.plan, self.device)
            kept = resident_images(self.source, self.plan.channels, self.device, workers=self.workers, track=track)
            if kept is not None:
                self.images, self._bad = kept[0], tuple(kept[1])

    def compile(self) -> str | None:
        """With the engine ``gpu``: have its work compiled, tried on the views of a step.

        Returns:
            None, or, where the compiler failed, why, in one line: then it is done as it is written.
        """
        self.prepare()
        views = self.plan.roles.used
        return self.applier.compile(self.batch_size // self.world, views, self.images) if self.applier else None

    def fill_batches(self) -> Iterator[tuple[Progress, Batch]]:
        """One pass over the images before the first epoch, to fill a memory: the grouped views only.

        Its order and its draws are those of an epoch of its own (-1); its steps count from 0, and are none of the run's.
        """
        views = self.plan.roles.grouped_views
        return self._batches(((_FILLING, step, views) for step in range(self.steps_per_epoch)), 0)

    def batches(self, start: int = 0) -> Iterator[tuple[Progress, Batch]]:
        """The batches from step ``start`` to the end of the run, on the device, normalized: the views that a step uses."""
        return self._batches(self._wanted(start), start)

    def _wanted(self, start: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Epoch, step in it and views of each step."""
        for step in range(start, self.total_steps):
            progress = self._progress(step)
            yield progress.epoch, progress.step_in_epoch, self.plan.roles.at(progress).used

    def _batches(
        self, wanted: Iterator[tuple[int, int, tuple[int, ...]]], start: int
    ) -> Iterator[tuple[Progress, Batch]]:
        self.prepare()
        fetched = self.order.fetched and self.images is None
        ahead = WindowPrefetcher(self.source, self.order) if fetched and isinstance(self.source, Prefetchable) else None
        requests = (BatchRequest(epoch, self._indices(epoch, step, ahead), views) for epoch, step, views in wanted)
        try:
            made = worker_batches(self._in_a_worker(), requests, self.workers, self.device)
            for step, batch in enumerate(_beside_the_work(self, made), start=start):
                yield self._progress(step), batch
        finally:
            if ahead is not None:
                ahead.close()

    def _indices(self, epoch: int, step: int, ahead: WindowPrefetcher | None) -> Int[np.ndarray, " b"]:
        share = self.batch_size // self.world
        first = step * self.batch_size + self.rank * share
        if ahead is not None:
            ahead.at(epoch, first)
        return self.order.indices(epoch, first, first + share)

    def _in_a_worker(self) -> Dataset[Any]:
        if self.images is not None:
            return ParameterDataset(self.plan, self.seed, (self.images.shape[2], self.images.shape[3]))
        kind = CropDataset if self.engine == "gpu" else ViewDataset
        return kind(self.source, self.plan, self.seed)

    def batch(self, made: WorkerBatch) -> Batch:
        """What a worker made, on the device and normalized."""
        index = made.index.to(self.device, non_blocking=True)
        pixels = {key: each.to(self.device, non_blocking=True) for key, each in made.pixels.items()}
        if made.parameters is None:
            assert self.plan.mean is not None
            assert self.plan.std is not None
            views = {number: normalize(each, self.plan.mean, self.plan.std) for number, each in pixels.items()}
            return Batch(index, views, made.bad)
        assert self.applier is not None
        parameters = made.parameters.to(self.device, non_blocking=True)
        if self.images is None:
            return Batch(index, self.applier.of_crops(pixels, parameters, made.views), made.bad)
        return Batch(index, self.applier.of_images(self.images[index], parameters, made.views), self._bad)

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps_per_epoch, self.total_steps)


def _beside_the_work(loader: Loader, made: Iterable[WorkerBatch]) -> Iterator[Batch]:
    """The batches; on CUDA they are copied and finished on a stream of their own, beside the step that still runs."""
    if loader.device.type != "cuda":
        yield from map(loader.batch, made)
        return
    stream = torch.cuda.Stream(loader.device)  # type: ignore[no-untyped-call]
    for each in made:
        with torch.cuda.stream(stream):
            batch = loader.batch(each)
        step = torch.cuda.current_stream(loader.device)
        step.wait_stream(stream)
        for tensor in (batch.index, *batch.views.values()):
            tensor.record_stream(step)  # its memory is not given away before the step has done with it
        yield batch
