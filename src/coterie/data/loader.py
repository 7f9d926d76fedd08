"""From a source to batches: the order of images, and the way of their pixels to the device."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from coterie.data.cpu import normalize
from coterie.data.device import DeviceApplier
from coterie.data.resident import Track, resident_images
from coterie.data.source import ImageSource
from coterie.data.views import ViewPlan
from coterie.data.workers import Crops, FinishedViews, Made, Parameters, Request, fetch
from coterie.errors import UserError
from coterie.types import Batch, Progress

_ORDER_TAG = 0x6F72646572  # "order": keeps this stream apart from that of the views
_FILLING = -1  # the epoch of the pass before the first


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " n"]:
    """The order of the images in an epoch (-1: the filling pass): a permutation that depends on nothing but (seed, epoch)."""
    key = np.array([(seed ^ _ORDER_TAG) % 2**64, epoch % 2**64], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.permutation(count)


class Loader:
    """Batches of views for a whole run.

    Step s of an epoch takes the positions ``[s * batch_size, (s + 1) * batch_size)`` of that epoch's order; what does not
    fill a last batch is left out of that epoch. Which images and which views come is a pure function of the seed and the
    step, so a run goes on anywhere, with any number of workers. Only the views that somebody looks at are made.

    With the engine ``cpu`` workers make the views whole. With ``device`` they decode and crop, and the rest is done to a
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
        engine: Literal["cpu", "device"] = "cpu",
    ) -> None:
        """Nothing is read before the first batch is asked for."""
        if batch_size > len(source):
            raise UserError(
                f"{len(source)} images are fewer than one batch of {batch_size}: use --batch-size {len(source)} or less"
            )
        self.source, self.plan, self.seed = source, plan, seed
        self.batch_size, self.workers, self.device = batch_size, workers, torch.device(device)
        self.engine = engine
        self.steps_per_epoch = len(source) // batch_size
        self.total_steps = epochs * self.steps_per_epoch
        self.applier: DeviceApplier | None = None
        self.images: Tensor | None = None
        self._bad: tuple[tuple[int, str], ...] = ()
        self._prepared = False

    def prepare(self, track: Track | None = None) -> None:
        """With the engine ``device``: bring small images there; done by itself before the first batch.

        Args:
            track: shows the progress through an iterable of a length.
        """
        if self._prepared:
            return
        self._prepared = True
        if self.engine == "device":
            self.applier = DeviceApplier(self.plan, self.device)
            kept = resident_images(self.source, self.plan.channels, self.device, workers=self.workers, track=track)
            if kept is not None:
                self.images, self._bad = kept[0], tuple(kept[1])

    def once(self) -> Iterator[tuple[Progress, Batch]]:
        """One pass over the images before the first epoch, to fill a memory: the grouped views only.

        Its order and its draws are those of an epoch of its own (-1); its steps count from 0, and are none of the run's.
        """
        views = self.plan.roles.grouped_views
        return self._batches((Request(_FILLING, indices, views) for indices in self._slices(_FILLING)), 0)

    def resume(self, start: int = 0) -> Iterator[tuple[Progress, Batch]]:
        """The batches from step ``start`` to the end of the run, on the device, normalised: the views that a step uses."""
        return self._batches(self._requests(start), start)

    def _requests(self, start: int) -> Iterator[Request]:
        for epoch in range(start // self.steps_per_epoch, self.total_steps // self.steps_per_epoch):
            for step, indices in enumerate(self._slices(epoch), start=epoch * self.steps_per_epoch):
                if step >= start:
                    yield Request(epoch, indices, self.plan.roles.at(self._progress(step)).used)

    def _slices(self, epoch: int) -> Iterator[Int[np.ndarray, " b"]]:
        order = epoch_order(self.seed, epoch, len(self.source))
        for first in range(0, self.steps_per_epoch * self.batch_size, self.batch_size):
            yield order[first : first + self.batch_size]

    def _batches(self, requests: Iterator[Request], start: int) -> Iterator[tuple[Progress, Batch]]:
        self.prepare()
        made = fetch(self._in_a_worker(), requests, self.workers, self.device)
        for step, batch in enumerate(_beside_the_work(self, made), start=start):
            yield self._progress(step), batch

    def _in_a_worker(self) -> Dataset[Any]:
        if self.images is not None:
            return Parameters(self.plan, self.seed, (self.images.shape[2], self.images.shape[3]))
        kind = Crops if self.engine == "device" else FinishedViews
        return kind(self.source, self.plan, self.seed)

    def batch(self, made: Made) -> Batch:
        """What a worker made, on the device and normalised."""
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


def _beside_the_work(loader: Loader, made: Iterable[Made]) -> Iterator[Batch]:
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
