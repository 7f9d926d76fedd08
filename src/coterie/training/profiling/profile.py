"""A short run whose steps are timed part by part."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import active_children
from typing import Any

import torch

from coterie.config.describe import summary
from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.grouping.teacher import MomentumTeacher
from coterie.logger import Logger
from coterie.training.build import TrainingParts, build_loader, build_parts, out_of_memory
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.training.profiling.advice import (
    BACKWARD,
    BOOKKEEPING,
    COPY,
    GROUPING,
    OPTIMIZER,
    PARTS,
    STUDENT,
    TEACHER,
    WAITING,
    Profile,
)
from coterie.training.profiling.loader_stages import measure_stages
from coterie.training.profiling.rehearsal import (
    FILLING_SECONDS,
    MOST_FILLING,
    TICKS,
    StepTimer,
    private_bytes,
    proc_status_bytes,
    simulate_full_memory,
)
from coterie.types import Batch, Progress

MOST_STEPS = 1000
"""Of a turn: a step of a millisecond need not be measured thousands of times."""
TURNS = 4

Stream = Iterator[tuple[Progress, Batch]]


class SectionTimer:
    """Charges the time since its last mark to a part, so that all parts together are the whole.

    On a CUDA device each mark waits for the device: what it does belongs to the part that asked for it.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is charged before :meth:`start`."""
        self.device, self.running, self.since = device, False, 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)

    def settle(self) -> float:
        """Wait for the device; the time then."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        """Charge from now on."""
        self.running, self.since = True, self.settle()

    def stop(self) -> None:
        """Charge no more."""
        self.running = False

    def mark(self, part: str) -> None:
        """What went on since the last mark was this part."""
        if self.running:
            now = self.settle()
            self.parts[part] += now - self.since
            self.since = now

    def marking(self, part: str) -> Callable[..., None]:
        """A hook that marks."""
        return lambda *_: self.mark(part)

    def watch(self, loader: Loader, parts: TrainingParts, optimizer: torch.optim.Optimizer) -> None:
        """Mark where the loop goes from one part to the next."""
        student = parts.student
        objective: Any = parts.objective  # a module
        target = getattr(objective, "target", None)
        self._mark_before(loader, "batch", WAITING)  # it is called with what the workers made
        objective.register_forward_pre_hook(self.marking(BOOKKEEPING))  # seed, learning rate
        teacher = target.network if isinstance(target, MomentumTeacher) else None
        student.register_forward_pre_hook(self.marking(TEACHER if teacher is not None else GROUPING))  # it may move
        student.register_forward_hook(self.marking(STUDENT))
        if teacher is not None:
            teacher.register_forward_pre_hook(self.marking(GROUPING))
            teacher.register_forward_hook(self.marking(TEACHER))
        objective.register_forward_hook(self.marking(GROUPING))
        self._mark_before(objective, "after_backward", BACKWARD)
        optimizer.register_step_post_hook(self.marking(OPTIMIZER))  # with the norm of the gradient
        self._mark_before(objective, "after_step", OPTIMIZER)  # with zero_grad

    def _mark_before(self, owner: object, name: str, part: str) -> None:
        method: Callable[[Any], Any] = getattr(owner, name)

        def marked(given: Any) -> Any:
            self.mark(part)
            return method(given)

        setattr(owner, name, marked)  # of this one object


@dataclass
class _Tally:
    """Steps, and the seconds that they took."""

    steps: int = 0
    seconds: float = 0.0


class _Steps:
    """Real steps, timed part by part.

    A CUDA device that is waited for at each mark does not overlap its work, so there half of the steps, in turns with the
    others, are made as a run makes them. On a CPU nothing overlaps, and a mark takes a millionth of a second.
    """

    def __init__(
        self, stream: Stream, timeline: SectionTimer, seconds: float, workers: int, ticks: Iterator[int]
    ) -> None:
        self.stream, self.timeline, self.ticks = stream, timeline, ticks
        self.seconds, self.workers, self.said = seconds, workers, 0
        self.plain, self.timed = _Tally(), _Tally()

    def batches(self) -> Stream:
        """What a loop is given."""
        # Until the batches are gone that the workers had made before, while the first steps were slow.
        yield from self._turn(_Tally(), self.seconds / 2, 2 + 2 * self.workers)
        while not self.timed.steps or self.plain.seconds + self.timed.seconds < self.seconds:
            if self.timeline.device.type == "cuda":
                yield from self._turn(self.plain, self.seconds / TURNS, MOST_STEPS)
            self.timeline.start()
            yield from self._turn(self.timed, self.seconds / TURNS, MOST_STEPS)
            self.timeline.stop()
            if self.timed.steps >= MOST_STEPS:
                break

    def _turn(self, tally: _Tally, seconds: float, most: int) -> Stream:
        began, steps = self.timeline.settle(), 0
        while steps < most and (not steps or time.perf_counter() - began < seconds):
            item = next(self.stream)
            self.timeline.mark(COPY)
            yield item
            steps += 1
            self._tell(self.plain.seconds + self.timed.seconds + time.perf_counter() - began)
            self.timeline.mark(BOOKKEEPING)
        tally.steps += steps
        tally.seconds += self.timeline.settle() - began

    def _tell(self, seconds: float) -> None:
        while self.said < TICKS * min(1.0, seconds / self.seconds):
            self.said += 1
            next(self.ticks, None)


def profile_run(config: PretrainConfig, source: ImageSource, seconds: float, logger: Logger) -> Profile:
    """Make some real steps of a run in this process, and say where their time goes.

    Args:
        config: of the run.
        source: its images.
        seconds: of steps; the warm-up, the memory's filling and the stages of the loader, a few seconds each, come on top.
        logger: is told how far it is.

    Raises:
        UserError: what the run itself would say, in one line.
    """
    runtime, threads = (
        Runtime.choose(config.run.device, config.run.precision, config.run.workers, logger),
        torch.get_num_threads(),
    )
    torch.set_num_threads(config.run.threads or threads)
    try:
        return _profile(config, source, seconds, runtime)
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(config, runtime, error)) from error
    finally:
        torch.set_num_threads(threads)


def _profile(config: PretrainConfig, source: ImageSource, seconds: float, runtime: Runtime) -> Profile:
    device, logger = runtime.device, runtime.logger
    longer = replace(config, epochs=config.epochs + (1 + TURNS) * MOST_STEPS, images=None)  # enough steps, always
    loader, timeline = build_loader(longer, source, runtime), SectionTimer(device)
    began = time.perf_counter()
    loader.prepare(logger.progress)
    prepared = time.perf_counter() - began
    filling, refresh = StepTimer(FILLING_SECONDS, MOST_FILLING, device), 0.0
    parts = build_parts(config, device, images=len(source))
    with closing(loader.batches(1)) as stream:  # type: ignore[type-var]  # 1: a refresh comes before step 0
        ticks = iter(logger.progress(range(TICKS), TICKS, "profiling"))
        steps = _Steps(stream, timeline, seconds, loader.workers, ticks)

        def batches() -> Stream:
            nonlocal refresh
            refresh = simulate_full_memory(parts.objective, config, len(source))
            yield from steps.batches()

        _fit(config, loader, parts, runtime, timeline, batches(), lambda: filling.over(loader.fill_batches()))
        for _ in ticks:  # so that a bar is whole
            pass
        held = {
            "main_memory": proc_status_bytes(os.getpid(), "VmHWM"),
            "worker_memory": sum(private_bytes(child.pid) for child in active_children() if child.pid),
            "device_memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        }
    stages, taken = measure_stages(loader), steps.plain if steps.plain.steps else steps.timed
    return Profile(
        config=config,
        summary=summary(config, len(source), device),
        parts={part: spent / steps.timed.steps for part, spent in timeline.parts.items()},
        step=taken.seconds / taken.steps,
        steps=steps.timed.steps,
        stages=stages.of_an_image(),
        jpeg=stages.jpegs > stages.images / 2,
        preparing=prepared if loader.device_images is not None else 0.0,
        filling=filling.typical,
        refresh=refresh,
        steps_per_epoch=loader.steps_per_epoch,
        device=device.type,
        workers=loader.workers,
        cores=len(os.sched_getaffinity(0)),
        **held,
    )


def _fit(
    config: PretrainConfig,
    loader: Loader,
    parts: TrainingParts,
    runtime: Runtime,
    timeline: SectionTimer,
    batches: Stream,
    fill_batches: Callable[[], Stream],
) -> None:
    """The loop of every run, watched."""
    device = loader.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rows, rate, log_steps = config.assigned_rows, config.learning_rate, config.run.log_steps
    monitor = Monitor(config.group_counts, rows, rate, log_steps=log_steps, write=lambda _: None, device=device)
    optimizer = config.optimizer.build(parts.student)
    timeline.watch(loader, parts, optimizer)
    fit(
        parts.student,
        parts.objective,
        monitor.timed(batches),
        optimizer,
        rate.at,
        fill_batches=fill_batches,
        autocast=runtime.autocast,
        clip_grad_norm=config.clip_grad_norm,
        seed=config.seed,
        on_step_end=[monitor.on_step_end],
    )
