"""The training loader: from a source to batches of views on the device."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import normalize
from coterie.data.augmentation.gpu import GpuAugmenter
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.device_images import ShowProgress, load_device_images
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
from coterie.data.sources.source import ImageSource, Prefetchable, shard_layout
from coterie.errors import UserError
from coterie.types import Batch, Progress, Stretch

_FILL_EPOCH = -1  # the epoch of the pass before the first one


def count_steps(images: int, batch_size: int, epochs: int, limit: int | None = None) -> int:
    """The steps of so many epochs of whole batches, but no more than ``limit`` images have; at least one."""
    steps = epochs * (images // batch_size)
    return steps if limit is None else min(steps, max(1, limit // batch_size))


class Loader:
    """Batches of views for a whole run.

    Step s of an epoch takes the positions ``[s * batch_size, (s + 1) * batch_size)`` of the order of that epoch
    (:mod:`coterie.data.loading.sampler`); images that do not fill a last batch are left out of that epoch. Which images
    and which views are used is a pure function of the seed and the step, so a run can be resumed at any step, with any
    number of workers. Only views that a step uses are made.

    With the engine ``cpu``, workers make finished views. With ``gpu``, workers decode and crop, and the rest is done on
    the device for a whole batch; small images of one size are decoded once and stored on the device, and workers only
    send parameters.

    Args:
        source: The images; nothing is read before the first batch.
        plan: The plan of the views.
        batch_size: Images per step, over all processes.
        epochs: Number of epochs.
        seed: Seed for the order of images and their augmentation.
        workers: Number of worker processes; 0: this process.
        device: Device of the batches.
        engine: Where views are augmented.
        rank: Number of this process.
        world_size: Number of processes.
        images: End after this many images, possibly within an epoch; None: after all epochs.

    Raises:
        UserError: There are fewer images than ``batch_size``, or it is not a multiple of ``world_size``.
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
        world_size: int = 1,
        images: int | None = None,
    ) -> None:
        if batch_size > len(source):
            raise UserError(
                f"{len(source)} images are fewer than one batch of {batch_size}: use --batch-size {len(source)} or less"
            )
        if batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} cannot be divided evenly among {world_size} processes: use --batch-size "
                f"{max(1, round(batch_size / world_size)) * world_size}"
            )
        self.source, self.plan, self.seed = source, plan, seed
        self.rank, self.world_size = rank, world_size
        self.batch_size, self.workers, self.device = batch_size, workers, torch.device(device)
        self.engine = engine
        self.steps_per_epoch = len(source) // batch_size
        self.total_steps = count_steps(len(source), batch_size, epochs, images)
        self.stretch: Stretch | None = None
        self.sampler = BlockShuffleSampler(seed, shard_layout(source))
        self.augmenter: GpuAugmenter | None = None
        self.device_images: Tensor | None = None
        self._bad_device_images: tuple[tuple[int, str], ...] = ()
        self._prepared = False

    def prepare(self, show_progress: ShowProgress | None = None) -> None:
        """With the engine ``gpu``: store small images on the device. Called before the first batch if you do not.

        Args:
            show_progress: Shows the progress of decoding.
        """
        if self._prepared:
            return
        self._prepared = True
        if self.engine == "gpu":
            self.augmenter = GpuAugmenter(self.plan, self.device)
            options: dict[str, Any] = {"workers": self.workers, "show_progress": show_progress}
            options |= {"value_range": self.plan.range}
            loaded = load_device_images(self.source, self.plan.channels, self.device, **options)
            if loaded is not None:
                self.device_images, self._bad_device_images = loaded[0], tuple(loaded[1])

    @property
    def ahead(self) -> int:
        """How many batches may be requested before they are used."""
        return 2 * self.workers + 2

    def set_length(self, total_steps: int, stretch: Stretch | None) -> None:
        """Change the length of the run from the next step on, for batches that are being loaded too.

        It can become longer only as long as more than :attr:`ahead` steps are left.

        Args:
            total_steps: Steps of the whole run.
            stretch: How schedules go on over it.
        """
        self.total_steps, self.stretch = total_steps, stretch

    def compile(self) -> str | None:
        """With the engine ``gpu``: compile the augmentation, and test it on the views of a step.

        Returns:
            None, or the reason in one line if the compiler failed; augmentation then runs uncompiled.
        """
        self.prepare()
        if self.augmenter is None:
            return None
        return self.augmenter.compile(self.batch_size // self.world_size, self.plan.roles.used, self.device_images)

    def fill_batches(self) -> Iterator[tuple[Progress, Batch]]:
        """One pass over the images before the first epoch, to fill the memory: the grouped views only.

        Its order and view parameters are those of epoch -1. Its steps count from 0 and do not belong to the run.
        """
        views = self.plan.roles.grouped_views
        return self._batches(((_FILL_EPOCH, step, views) for step in range(self.steps_per_epoch)), 0)

    def batches(self, start: int = 0) -> Generator[tuple[Progress, Batch], None, None]:
        """The batches from step ``start`` to the end of the run, with the views of each step, normalized, on the device."""
        with closing(self._batches(self._steps(start), start)) as stream:
            for progress, batch in stream:
                yield progress, batch
                if self.stretch is not None and progress.step + 1 >= self.total_steps:  # it may have become shorter
                    return

    def _steps(self, start: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Epoch, step in the epoch, and views of each step."""
        step = start
        while step < self.total_steps:  # which may change
            progress = self._progress(step)
            yield progress.epoch, progress.step_in_epoch, self.plan.roles.at(progress).used
            step += 1

    def _batches(
        self, steps: Iterator[tuple[int, int, tuple[int, ...]]], start: int
    ) -> Generator[tuple[Progress, Batch], None, None]:
        self.prepare()
        prefetcher = None
        if self.sampler.remote and self.device_images is None and isinstance(self.source, Prefetchable):
            prefetcher = WindowPrefetcher(self.source, self.sampler)
        requests = (BatchRequest(epoch, self._indices(epoch, step, prefetcher), views) for epoch, step, views in steps)
        try:
            batches = worker_batches(self._worker_dataset(), requests, self.workers, self.device)
            for step, batch in enumerate(_finish_batches(self, batches), start=start):
                yield self._progress(step), batch
        finally:
            if prefetcher is not None:
                prefetcher.close()

    def _indices(self, epoch: int, step: int, prefetcher: WindowPrefetcher | None) -> Int[np.ndarray, " b"]:
        share = self.batch_size // self.world_size
        first = step * self.batch_size + self.rank * share
        if prefetcher is not None:
            prefetcher.move_to(epoch, first)
        return self.sampler.indices(epoch, first, first + share)

    def _worker_dataset(self) -> Dataset[Any]:
        if self.device_images is not None:
            return ParameterDataset(self.plan, self.seed, (self.device_images.shape[2], self.device_images.shape[3]))
        kind = CropDataset if self.engine == "gpu" else ViewDataset
        return kind(self.source, self.plan, self.seed)

    def finish_batch(self, batch: WorkerBatch) -> Batch:
        """Move a worker's batch to the device, and augment and normalize what the worker has not."""
        index = batch.index.to(self.device, non_blocking=True)
        pixels = {key: each.to(self.device, non_blocking=True) for key, each in batch.pixels.items()}
        if batch.parameters is None:
            assert self.plan.mean is not None
            assert self.plan.std is not None
            views = {number: normalize(each, self.plan.mean, self.plan.std) for number, each in pixels.items()}
            return Batch(index, views, batch.bad)
        assert self.augmenter is not None
        parameters = batch.parameters.to(self.device, non_blocking=True)
        if self.device_images is None:
            return Batch(index, self.augmenter.views_from_crops(pixels, parameters, batch.views), batch.bad)
        views = self.augmenter.views_from_images(self.device_images[index], parameters, batch.views)
        return Batch(index, views, self._bad_device_images)

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps_per_epoch, self.total_steps, self.stretch)


def _finish_batches(loader: Loader, batches: Iterable[WorkerBatch]) -> Iterator[Batch]:
    """Finish the batches; on CUDA, on a separate stream that runs while the previous step is still computed."""
    if loader.device.type != "cuda":
        yield from map(loader.finish_batch, batches)
        return
    stream = torch.cuda.Stream(loader.device)  # type: ignore[no-untyped-call]
    for each in batches:
        with torch.cuda.stream(stream):
            batch = loader.finish_batch(each)
        current = torch.cuda.current_stream(loader.device)
        current.wait_stream(stream)
        for tensor in (batch.index, *batch.views.values()):
            tensor.record_stream(current)  # its memory must not be reused before the step is done with it
        yield batch
