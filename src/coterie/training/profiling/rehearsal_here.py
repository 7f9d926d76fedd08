"""A rehearsal in a process that does other work too, whose state stays as it was."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.global_state import restoring_global_state
from coterie.training.build import out_of_memory
from coterie.training.custom_parts import CustomParts
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal import rehearse
from coterie.training.profiling.step_timer import TICKS


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Context after which the global state and the memory of this process are as they were before."""
    try:
        with restoring_global_state():
            yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def rehearse_here(
    config: PretrainConfig,
    source: ImageSource,
    runtime: Runtime,
    seconds: float,
    *,
    threads: Sequence[int] = (),
    busy: int = 0,
    custom: CustomParts | None = None,
) -> Rehearsal:
    """Rehearse a run in a process that does other work too, whose state stays as it was.

    Args:
        config: settings of the run.
        source: its images.
        runtime: where and how it computes; its logger receives progress.
        seconds: about how long the steps may take.
        threads: as of :func:`coterie.training.profiling.rehearsal.rehearse`.
        busy: likewise.
        custom: parts in place of those of the settings.

    Raises:
        UserError: an error of the run itself.
    """
    ticks, ticked = iter(runtime.logger.progress(range(TICKS), TICKS, "rehearsing")), 0

    def tick(share: float) -> None:
        nonlocal ticked
        while ticked < round(TICKS * share):
            ticked += 1
            next(ticks, None)

    try:
        with undisturbed(runtime.device):
            return rehearse(config, source, runtime, seconds, threads=threads, busy=busy, tick=tick, custom=custom)
    except torch.OutOfMemoryError as error:
        raise UserError(out_of_memory(config, runtime, error)) from error
    finally:
        for _ in ticks:  # complete the progress bar
            pass
