"""Profiles a short run, whose steps are timed part by part."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
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
from coterie.signals import check_interrupted
from coterie.training.build import TrainingParts, out_of_memory, start_line
from coterie.training.custom_parts import CustomParts
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
from coterie.training.profiling.process_memory import peak_bytes, worker_bytes
from coterie.training.profiling.rehearsal import FILLING_SECONDS, MOST_FILLING, ShortRun
from coterie.training.profiling.step_timer import TICKS, StepTimer, Stream
from coterie.usable_cores import usable_cores

MOST_STEPS = 1000
"""Most steps of a turn: a step of a millisecond need not be measured thousands of times."""
TURNS = 4
"""Into how many turns the time is divided."""


class SectionTimer:
    """Attributes the time since its last mark to a part of a step, so that the parts add up to the step.

    On a CUDA device each mark waits for the device, so that its work belongs to the part that queued it.
    """

    def __init__(self, device: torch.device) -> None:
        """Time nothing before :meth:`start`."""
        self.device, self.running, self.since = device, False, 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)

    def settle(self) -> float:
        """Wait for the device, and return the time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def start(self) -> None:
        """Start timing."""
        self.running, self.since = True, self.settle()

    def stop(self) -> None:
        """Stop timing."""
        self.running = False

    def mark(self, part: str) -> None:
        """Attribute the time since the last mark to ``part``."""
        if self.running:
            now = self.settle()
            self.parts[part] += now - self.since
            self.since = now

    def marking(self, part: str) -> Callable[..., None]:
        """Return a hook that marks ``part``."""
        return lambda *_: self.mark(part)

    def watch(self, loader: Loader, parts: TrainingParts, optimizer: torch.optim.Optimizer) -> None:
        """Install marks wherever the loop changes from one part to the next."""
        student = parts.student
        objective: Any = parts.objective  # a module
        target = getattr(objective, "target", None)
        self._mark_before(loader, "finish_batch", WAITING)  # called when the output of the workers has arrived
        objective.register_forward_pre_hook(self.marking(BOOKKEEPING))  # seed, learning rate
        teacher = target.network if isinstance(target, MomentumTeacher) else None
        student.register_forward_pre_hook(self.marking(TEACHER if teacher is not None else GROUPING))  # its update
        student.register_forward_hook(self.marking(STUDENT))
        if teacher is not None:
            teacher.register_forward_pre_hook(self.marking(GROUPING))
            teacher.register_forward_hook(self.marking(TEACHER))
        objective.register_forward_hook(self.marking(GROUPING))
        self._mark_before(objective, "after_backward", BACKWARD)
        optimizer.register_step_post_hook(self.marking(OPTIMIZER))  # including the gradient norm
        self._mark_before(objective, "after_step", OPTIMIZER)  # including zero_grad

    def _mark_before(self, owner: object, name: str, part: str) -> None:
        method: Callable[[Any], Any] = getattr(owner, name)

        def marked(argument: Any) -> Any:
            self.mark(part)
            return method(argument)

        setattr(owner, name, marked)  # on this object only


@dataclass
class _StepCount:
    """A number of steps and the seconds that they took."""

    steps: int = 0
    seconds: float = 0.0


class _TimedSteps:
    """Real steps, timed part by part.

    A CUDA device that is waited for at each mark does not overlap its work, so there half of the steps are normal steps, in
    turns with the timed ones. On a CPU nothing overlaps, and a mark takes a microsecond.
    """

    def __init__(self, stream: Stream, timer: SectionTimer, seconds: float, workers: int, ticks: Iterator[int]) -> None:
        self.stream, self.timer, self.ticks = stream, timer, ticks
        self.seconds, self.workers, self.ticked = seconds, workers, 0
        self.plain, self.timed = _StepCount(), _StepCount()

    def batches(self) -> Stream:
        """The batches for the loop."""
        # first use up the batches that the workers prepared while the first steps were slow
        yield from self._turn(_StepCount(), self.seconds / 2, 2 + 2 * self.workers)
        while not self.timed.steps or self.plain.seconds + self.timed.seconds < self.seconds:
            if self.timer.device.type == "cuda":
                yield from self._turn(self.plain, self.seconds / TURNS, MOST_STEPS)
            self.timer.start()
            yield from self._turn(self.timed, self.seconds / TURNS, MOST_STEPS)
            self.timer.stop()
            if self.timed.steps >= MOST_STEPS:
                break

    def _turn(self, count: _StepCount, seconds: float, most: int) -> Stream:
        began, steps = self.timer.settle(), 0
        while steps < most and (not steps or time.perf_counter() - began < seconds):
            check_interrupted()
            item = next(self.stream)
            self.timer.mark(COPY)
            yield item
            steps += 1
            self._tick(self.plain.seconds + self.timed.seconds + time.perf_counter() - began)
            self.timer.mark(BOOKKEEPING)
        count.steps += steps
        count.seconds += self.timer.settle() - began

    def _tick(self, seconds: float) -> None:
        while self.ticked < TICKS * min(1.0, seconds / self.seconds):
            self.ticked += 1
            next(self.ticks, None)


def profile_run(
    config: PretrainConfig, source: ImageSource, seconds: float, logger: Logger, custom: CustomParts | None = None
) -> Profile:
    """Train some real steps of a run in this process, and measure where their time goes.

    Args:
        config: settings of the run.
        source: its images.
        seconds: duration of the steps; warm-up, filling the memory and measuring the loader add a few seconds each.
        logger: receives messages and progress.
        custom: parts in place of those of the settings.

    Raises:
        UserError: an error of the run itself, in one line.
    """
    start = start_line(config, len(source))
    if start is not None:
        logger.info(f"starts from {start}")
    runtime = Runtime.of_run(config.run, logger)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.run.threads or threads)
    try:
        return _profile(config, source, seconds, runtime, custom)
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(config, runtime, error)) from error
    finally:
        torch.set_num_threads(threads)


def _profile(
    config: PretrainConfig, source: ImageSource, seconds: float, runtime: Runtime, custom: CustomParts | None
) -> Profile:
    device, logger = runtime.device, runtime.logger
    run = ShortRun(config, source, runtime, steps=(1 + TURNS) * MOST_STEPS, custom=custom)
    loader, timer = run.loader, SectionTimer(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    preparing = run.prepare(logger.progress)
    filling = StepTimer(FILLING_SECONDS, MOST_FILLING, device)
    timer.watch(loader, run.parts, run.optimizer)
    with closing(run.batches()) as stream:  # type: ignore[type-var]
        ticks = iter(logger.progress(range(TICKS), TICKS, "profiling"))
        steps = _TimedSteps(stream, timer, seconds, loader.workers, ticks)
        run.train(steps.batches(), filling)
        for _ in ticks:  # complete the progress bar
            pass
        memory = {
            "main_memory": peak_bytes(),
            "worker_memory": worker_bytes(),
            "device_memory": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        }
    stages, normal = measure_stages(loader), steps.plain if steps.plain.steps else steps.timed
    return Profile(
        config=config,
        summary=summary(config, len(source), device),
        parts={part: spent / steps.timed.steps for part, spent in timer.parts.items()},
        step=normal.seconds / normal.steps,
        steps=steps.timed.steps,
        stages=stages.per_image(),
        jpeg=stages.jpegs > stages.images / 2,
        preparing=preparing,
        filling=filling.typical,
        refresh=run.refresh,
        steps_per_epoch=loader.steps_per_epoch,
        device=device.type,
        workers=loader.workers,
        cores=len(usable_cores()),
        **memory,
    )
