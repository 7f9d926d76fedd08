"""The rehearsal of a run: a few real steps of it, of which nothing is kept, for plan, pretrain and profile.

:class:`ShortRun` builds the parts of a run as the run does and trains some steps. :func:`rehearse` times such steps. Where a
whole batch takes too long, it times two parts of a batch, a few images each, and extrapolates.
"""

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import numpy as np
import torch
from torch import nn

from coterie.config.facts import SMALL_SIDE
from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.loading.center_crop import center_crop_batches
from coterie.data.loading.device_images import ShowProgress
from coterie.data.sources.source import ImageSource, Subset, sample_indices, shard_layout
from coterie.grouping.chunks import CHUNK_ELEMENTS
from coterie.grouping.objective import Objective
from coterie.optim.optimizer import scheduled_decay
from coterie.training.build import build_loader, build_optimizer, build_parts
from coterie.training.custom_parts import CustomParts
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.training.profiling.extrapolation import Rehearsal, Timed, affordable, overlapped, whole_batch
from coterie.training.profiling.process_memory import peak_bytes, worker_bytes
from coterie.training.profiling.step_timer import StepTimer, Stream, Tick
from coterie.training.profiling.threads import fastest, reason, still_worth_trying
from coterie.training.student import preprocessing_of
from coterie.types import Progress
from coterie.usable_cores import usable_cores

MOST_STEPS = 60
FILLING_SECONDS, MOST_FILLING = 5.0, 20
EMBEDDING_SECONDS, EMBEDDED_IMAGES = 3.0, 256
SMALL_BATCH, LARGE_BATCH = 8, 64
"""How many images are embedded at a time: few large ones, more small ones."""
MEMORY_ROWS = 8192
"""Rows of a memory that serves only refreshes, where a rehearsal is to be quick."""
LOADED_SECONDS = 5.0
"""Batches that take longer to load are not loaded only to measure the memory of the loader processes."""
FEW_IMAGES = 1024
"""Images that are decoded to be kept on a GPU."""
SHARE_OF_RUN, FEWEST_STEPS = 0.05, 4
"""A rehearsal before a run has at most this share of its steps, or a few."""


class ShortRun:
    """The parts of a run, built as the run builds them.

    Attributes:
        refresh: seconds that a refresh of the full memory takes, after :meth:`train`; 0: there is none.
    """

    def __init__(
        self,
        config: PretrainConfig,
        source: ImageSource,
        runtime: Runtime,
        *,
        steps: int,
        images: int = 0,
        custom: CustomParts | None = None,
    ) -> None:
        """Build everything.

        Args:
            config: settings of the run.
            source: its images, or some of them.
            runtime: where it computes.
            steps: at most how many steps there will be.
            images: number of images of the whole source; 0: of ``source``.
            custom: parts in place of those of the settings.

        Raises:
            UserError: an error of the run itself.
        """
        self.config, self.runtime, self.images = config, runtime, images or len(source)
        longer = replace(config, epochs=config.epochs + steps, images=None)  # enough steps, always
        self.loader = build_loader(longer, source, runtime)
        self.parts = build_parts(config, runtime.device, images=self.images, starting_weights=False, custom=custom)
        self.optimizer = build_optimizer(config, self.parts.student, self.parts.student)
        self.monitor = Monitor(
            config.group_counts,
            config.assigned_rows,
            config.learning_rate,
            log_steps=config.run.log_steps,
            write=lambda _: None,
            device=runtime.device,
        )
        self.refresh = 0.0

    def prepare(self, show_progress: ShowProgress | None = None) -> float:
        """Store small images on the device, where the run does; returns the seconds that this takes with all of them."""
        began = time.perf_counter()
        self.loader.prepare(show_progress)
        if self.loader.device_images is None:
            return 0.0
        return (time.perf_counter() - began) * self.images / len(self.loader.source)

    def batches(self) -> Stream:
        """Whole batches from step 1 on: a refresh, which is timed by itself, comes before step 0."""
        return self.loader.batches(1)

    def train(self, batches: Stream, filling: StepTimer, *, refresh: bool = True, memory_rows: int = 0) -> None:
        """Fill the memory with some batches, simulate that it is full, and train.

        Args:
            batches: the batches of the steps.
            filling: bounds and times the filling.
            refresh: whether to time a refresh.
            memory_rows: number of rows of the run's memory; 0: of this one's.
        """

        def filled() -> Stream:
            objective = self.parts.objective
            self.refresh = simulate_full_memory(objective, self.config, self.images, refresh, memory_rows)
            yield from batches

        config = self.config
        fit(
            self.parts.student,
            self.parts.objective,
            self.monitor.timed(filled()),
            self.optimizer,
            config.learning_rate.at,
            weight_decay=scheduled_decay(config.optimizer),
            fill_batches=lambda: filling.over(self.loader.fill_batches()),
            autocast=self.runtime.autocast,
            clip_grad_norm=config.clip_grad_norm,
            seed=config.seed,
            on_step_end=[self.monitor.on_step_end],
        )


def simulate_full_memory(
    objective: Any, config: PretrainConfig, images: int, refresh: bool = True, memory_rows: int = 0
) -> float:
    """Fill the memory to its full size with random rows.

    A refresh is timed on at most one chunk of scores and scaled to all rows, because k-means and labeling are linear in the
    number of rows. Labels that are iterated until they converge (SeLa) may need more rounds later than with random rows.

    Args:
        objective: the objective of the run.
        config: its settings.
        images: number of images.
        refresh: whether to time a refresh.
        memory_rows: number of rows of the run's memory; 0: of this one's.

    Returns:
        Seconds that a refresh of the full memory takes; 0 if there is none, or if it is not timed.
    """
    memory = objective.memory if isinstance(objective, Objective) else None
    if memory is None or memory.start_epoch >= config.epochs:
        return 0.0
    memory.rows.normal_()
    memory.rows /= memory.rows.norm(dim=-1, keepdim=True)
    memory.index.copy_(torch.arange(memory.length) % images)
    memory.pushed = memory.length
    if objective.refresh_rule is None:
        return 0.0
    groups = max(config.group_counts)
    batches = -(-max(2 * groups, CHUNK_ELEMENTS // groups) // memory.share)  # a refresh takes whole batches
    memory.pushed = min(memory.length, batches * memory.share)
    began = time.perf_counter()
    if refresh:
        objective.refresh(Progress(0, 1, 1))
    seconds = time.perf_counter() - began
    if objective.labels is not None:
        objective.labels.clamp_(min=0)  # images outside that chunk have no label yet
    objective.refresh_rule = replace(
        objective.refresh_rule, every_epochs=sys.maxsize, every_steps=0
    )  # none from now on
    scale, memory.pushed = (memory_rows or memory.length) / memory.pushed, memory.length
    return seconds * scale if refresh else 0.0


def _time_steps(
    config: PretrainConfig,
    source: ImageSource,
    runtime: Runtime,
    images: int,
    seconds: float,
    most: int,
    threads: Sequence[int],
    *,
    alone: bool,
    last: bool,
    tick: Tick,
    custom: CustomParts | None,
) -> dict[int, Timed]:
    """Time steps of so many images by their threads, in a short run of their own; the ``last`` one times all else too."""
    whole, total = images == config.batch_size, len(source)
    beside_workers = whole and (alone or len(threads) > 1)  # loader processes need cores too
    part = replace(config, batch_size=images, micro_batches=min(config.micro_batches, max(1, images // 2)), images=None)
    memory_rows = 0
    if config.memory is not None and config.refresh is not None and not alone:  # no step reads it
        memory_rows = config.memory.length // config.batch_size * config.batch_size
        fewer = min(config.memory.length, max(images, 2 * max(config.group_counts), MEMORY_ROWS))
        part = replace(part, memory=replace(config.memory, length=fewer))
    if not alone and runtime.device.type == "cuda" and not shard_layout(source).remote:  # it may decode all of them
        source = Subset(source, np.arange(min(total, max(4 * images, 2 * max(config.group_counts), FEW_IMAGES))))
    by, cuda = runtime if beside_workers else replace(runtime, workers=0), runtime.device.type == "cuda"
    run = ShortRun(part, source, by, steps=most, images=total, custom=custom)
    preparing = run.prepare()
    most_filling = MOST_FILLING if alone else min(MOST_FILLING, most)
    filling = StepTimer(min(FILLING_SECONDS, seconds / 4), most_filling, runtime.device)
    least = len(threads) * (2 if whole else 1)
    timer = StepTimer(seconds, most, runtime.device, tick, least=least, threads=threads)
    with closing(run.batches()) as stream:  # type: ignore[type-var]
        run.train(timer.over(stream), filling, refresh=last, memory_rows=memory_rows)
    found = {}
    for number in threads:
        steps = timer.of(number)
        found[number] = Timed(
            images=images,
            steps=len(steps.works),
            work=steps.typical_work,
            cpu=steps.typical_work if cuda else max(1e-6, steps.typical_cpu),
            load=steps.typical_wait,
            filling=filling.typical,
            refresh=run.refresh,
            first=preparing + filling.first + steps.first,
            workers=max(filling.workers, timer.workers),
            step=steps.typical if beside_workers else 0.0,
            embedding=0.0,
            peak=peak_bytes(),
        )
    if last:
        torch.set_num_threads(_chosen(found))
        network = run.parts.student.encoder.backbone
        embedding = _embedding_time(network, part, source, runtime.device, seconds / 10)
        found = {number: replace(each, embedding=embedding) for number, each in found.items()}
    return found


def _chosen(found: Mapping[int, Timed]) -> int:
    """The number of threads that is fastest: beside loader processes where they are at work."""
    return fastest({threads: each.step or each.work for threads, each in found.items()})


def _embedding_time(
    network: nn.Module, config: PretrainConfig, source: ImageSource, device: torch.device, seconds: float
) -> float:
    """Seconds that it takes to load and embed an image."""
    look = preprocessing_of(config)
    sample = Subset(source, sample_indices(EMBEDDED_IMAGES, source))
    batch_size = SMALL_BATCH if look.size > SMALL_SIDE else LARGE_BATCH
    batches = center_crop_batches(sample, **asdict(look), batch_size=batch_size, device=device)
    network.eval()
    done, began = 0, time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            if batch.views:
                network(batch.views[0])
            done += batch_size
            if time.perf_counter() - began > min(EMBEDDING_SECONDS, seconds):
                break
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / min(done, len(sample))


def _loader_memory(config: PretrainConfig, source: ImageSource, runtime: Runtime) -> int:
    """The memory of the loader processes once they have made whole batches."""
    with closing(build_loader(config, source, runtime).batches()) as stream:
        next(stream)
        return worker_bytes()


def rehearse(
    config: PretrainConfig,
    source: ImageSource,
    runtime: Runtime,
    seconds: float,
    *,
    threads: Sequence[int] = (),
    busy: int = 0,
    alone: bool = False,
    tick: Tick = lambda share: None,
    custom: CustomParts | None = None,
) -> Rehearsal:
    """Train some steps of a run in this process, and time them; torch's number of threads is another one afterwards.

    Args:
        config: settings of the run.
        source: its images.
        runtime: where and how it computes.
        seconds: about how long the steps may take; at least two are made, of at least two images.
        threads: numbers of CPU threads: the steps take turns with them, and the fastest counts; none: that of the settings.
        busy: how many cores other processes keep busy, for the reason.
        alone: whether this process does nothing else: then its memory is measured, and the run's loader processes are
            started where whole steps fit into the time; also to choose between numbers of threads, which share the cores
            with them. Otherwise images are loaded here, and the time of a step beside loader processes is computed.
        tick: told of the share of the time that has passed.
        custom: parts in place of those of the settings.

    Raises:
        UserError: an error of the run itself.
    """
    began, whole = time.perf_counter(), config.batch_size
    smallest = min(whole, 2 * min(2, config.micro_batches))  # batch norm needs two images in each part
    tried = threads or (config.run.threads or torch.get_num_threads(),)

    def left() -> float:
        return seconds - (time.perf_counter() - began)

    def timed(images: int, limit: float, most: int, last: bool) -> dict[int, Timed]:
        by: dict[str, Any] = {"alone": alone, "last": last, "tick": progress, "custom": custom}
        return _time_steps(config, source, runtime, images, limit, most * len(tried), tried, **by)

    def progress(_: float) -> None:
        tick(min(1.0, 1 - left() / seconds))

    torch.set_num_threads(tried[-1])
    small, images, limit = {}, whole, left()
    if smallest < whole:
        small = timed(smallest, seconds / 3, 2, last=False)
        gc.collect()  # or both short runs would count as the memory of one
        tried = still_worth_trying({number: each.work for number, each in small.items()})
        per_image, limit = sum(small[number].work + small[number].load for number in tried) / smallest, left()
        images = affordable(smallest, whole, per_image, limit)
    most = MOST_STEPS if alone else _few_of(config.total_steps(len(source)))
    large = timed(images, limit, most if images == whole else 2, last=True)
    chosen = _chosen(large)
    found = whole_batch((small or large)[chosen], large[chosen], whole)
    if alone and images < whole and runtime.workers and found.load < LOADED_SECONDS:
        found = replace(found, workers=_loader_memory(config, source, runtime))
    tick(1.0)
    return replace(_result(found, images, runtime, alone=alone), threads=chosen, why=_why(small, large, busy))


def _why(small: Mapping[int, Timed], large: Mapping[int, Timed], busy: int) -> str:
    """Why the threads were chosen, by the largest steps of all that were tried."""
    compared = large if len(large) >= len(small) else small
    times = {number: each.step or each.work for number, each in compared.items()}
    images = next(iter(compared.values())).images
    return reason(times, busy, len(usable_cores()), images)


def _few_of(steps: int) -> int:
    """How many whole steps to rehearse before a run of so many: half of the first ones are warm-up."""
    return max(2, min(steps, MOST_STEPS, max(FEWEST_STEPS, round(SHARE_OF_RUN * steps))))


def _result(found: Timed, part: int, runtime: Runtime, *, alone: bool) -> Rehearsal:
    """What was found about a whole batch, from steps of ``part`` images."""
    beside = overlapped(found.work, found.cpu, found.load, runtime.workers, len(usable_cores()))
    return Rehearsal(
        step=found.step or beside,
        filling=found.filling,
        refresh=found.refresh,
        embedding=found.embedding,
        first=found.first,
        batch=found.images,
        part=part,
        steps=found.steps,
        day=date.today().isoformat(),
        main=found.peak if alone else 0,
        workers=found.workers if alone else 0,
        device=torch.cuda.max_memory_allocated(runtime.device) if alone and runtime.device.type == "cuda" else 0,
    )
