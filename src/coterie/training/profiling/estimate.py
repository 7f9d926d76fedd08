"""Estimates the time and memory of a run from a rehearsal of it on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_dict
from coterie.errors import UserError
from coterie.logger import Logger
from coterie.signals import raising
from coterie.training.profiling.rehearsal import TICKS

COMMAND = (sys.executable, "-P", "-m", "coterie.training.profiling.rehearsal")
MAP_SECONDS = 4.0
"""Time of the report's map of 2,000 images on one core (``docs/log.md``)."""


@dataclass(frozen=True)
class Estimate:
    """Time in seconds and memory in bytes; probes and checkpoints (usually below one percent) are not included.

    Attributes:
        starting: reading the list of images, building the network, starting the loader processes.
        filling: the pass over the images that fills the memory.
        training: all steps.
        refreshes: all refreshes (k-means and labels).
        evaluating: label-free metrics at the snapshots.
        reporting: the report at the end.
        step: one step.
        steps: number of steps rehearsed.
        main_memory: peak memory of the main process (VmHWM).
        worker_memory: memory of the loader processes in addition, counting only pages that they do not share.
        device_memory: peak memory of tensors on a CUDA device; not compared with a real run yet.
    """

    starting: float
    filling: float
    training: float
    refreshes: float
    evaluating: float
    reporting: float
    step: float
    steps: int
    main_memory: int
    worker_memory: int
    device_memory: int = 0

    @property
    def seconds(self) -> float:
        """Time from start to end."""
        return self.starting + self.filling + self.training + self.refreshes + self.evaluating + self.reporting

    @property
    def memory(self) -> int:
        """Memory of all processes, without the device's."""
        return self.main_memory + self.worker_memory


@dataclass(frozen=True)
class Plan:
    """The settings of a run and an estimate of what it takes.

    Attributes:
        config: every setting.
        reasons: the reason for each setting that was chosen, requested or set, by its path.
        summary: the run in one line.
        steps_per_epoch: whole batches in the images.
        estimate: its time and memory.
    """

    config: PretrainConfig
    reasons: dict[str, str]
    summary: str
    steps_per_epoch: int
    estimate: Estimate


def estimate(
    config: PretrainConfig,
    images: int,
    resolved_in: float,
    logger: Logger,
    *,
    label_free_images: int = 0,
    report_images: int = 0,
) -> Estimate:
    """Rehearse the run in a fresh process and extrapolate.

    Args:
        config: settings of the run.
        images: number of images in its source.
        resolved_in: seconds that it took to read and measure the images.
        logger: receives the progress of the rehearsal.
        label_free_images: number of images that the label-free metrics embed over the run, including augmented views.
        report_images: number of images that the report embeds.

    Raises:
        UserError: an error of the run itself; or the rehearsal was killed, usually because memory ran out.
    """
    began, measured = time.monotonic(), dict[str, Any]()

    def ticks() -> Iterator[None]:
        for line in _rehearsal_lines(config):
            measured.update({"ready": time.monotonic()} if "ready" in line else line)
            if not line:
                yield

    for _ in logger.progress(ticks(), TICKS, "rehearsing"):
        pass
    if "error" in measured:
        raise UserError(measured["error"])
    per_epoch, rule = images // config.batch_size, config.refresh
    steps = config.epochs * per_epoch
    if config.images is not None:
        steps = min(steps, config.images // config.batch_size)
    refreshes = 0
    if rule is not None:
        every = rule.every_steps or rule.every_epochs * per_epoch
        refreshes = -(-steps // every)
    return Estimate(
        starting=resolved_in + measured["ready"] - began + measured["first"],
        filling=measured["filling"] * per_epoch,
        training=measured["step"] * steps,
        refreshes=measured["refresh"] * refreshes,
        evaluating=measured["embedding"] * label_free_images,
        reporting=measured["embedding"] * report_images + MAP_SECONDS,
        step=measured["step"],
        steps=measured["steps"],
        main_memory=measured["main"],
        worker_memory=measured["workers"],
        device_memory=measured["device"],
    )


def _rehearsal_lines(config: PretrainConfig) -> Iterator[dict[str, Any]]:
    """The output lines of the rehearsing process."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    apart = {"process_group": 0}  # signals of a terminal or a scheduler are for this process, which ends that one
    with subprocess.Popen(COMMAND, **pipes, **apart, text=True, env=os.environ | paths) as child:  # type: ignore[call-overload]
        try:
            child.stdin.write(json.dumps(to_dict(config)))
            child.stdin.close()
            while line := _next_line(child.stdout):
                yield json.loads(line)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its loader workers too
            raise
    if child.returncode == -9:
        raise UserError(
            "the rehearsal was killed, usually because memory ran out: use a smaller --batch-size or --backbone, smaller "
            "views.crops or fewer run.workers"
        )
    if child.returncode:
        raise RuntimeError(f"the rehearsal ended with status {child.returncode}")


def _next_line(pipe: TextIOWrapper) -> str:
    with raising():
        return pipe.readline()
