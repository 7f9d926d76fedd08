"""What a run will take in time and memory, from a rehearsal of it on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from coterie.config.hardware import choose_device
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_dict
from coterie.errors import UserError
from coterie.evaluation.augmented_views import VIEWS_PER_IMAGE
from coterie.evaluation.callbacks import SAMPLED as LOOKED_AT
from coterie.logger import Logger
from coterie.reporting.run_report import sample_size
from coterie.training.profiling.rehearsal import TICKS
from coterie.training.student import preprocessing_of

COMMAND = (sys.executable, "-P", "-m", "coterie.training.profiling.rehearsal")
MAP_SECONDS = 4.0
"""What the report's map of 2,000 images takes, on one core (``docs/log.md``)."""


@dataclass(frozen=True)
class Estimate:
    """Time in seconds and memory in bytes; probes and checkpoints (most often below a hundredth) are left out.

    Attributes:
        starting: reading the list of images, building the network, starting the workers that load images.
        filling: the pass over the images that fills the memory.
        training: all steps.
        refreshes: k-means and labels, all of them.
        looking: the looks without labels on the way.
        reporting: the report at the end.
        step: one step.
        steps: how many were rehearsed.
        main_memory: most that the main process holds at once (VmHWM).
        worker_memory: what the processes that load images hold beside that, each its own pages only.
        device_memory: most that tensors hold on a CUDA device; not measured against a real run yet.
    """

    starting: float
    filling: float
    training: float
    refreshes: float
    looking: float
    reporting: float
    step: float
    steps: int
    main_memory: int
    worker_memory: int
    device_memory: int = 0

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.starting + self.filling + self.training + self.refreshes + self.looking + self.reporting

    @property
    def memory(self) -> int:
        """Of all processes together, without the device's."""
        return self.main_memory + self.worker_memory


@dataclass(frozen=True)
class Plan:
    """What a run would be.

    Attributes:
        config: every setting.
        reasons: why, for those that were found, asked for or set; by path.
        summary: one line.
        steps_per_epoch: whole batches in the images.
        estimate: of time and memory.
    """

    config: PretrainConfig
    reasons: dict[str, str]
    summary: str
    steps_per_epoch: int
    estimate: Estimate


def estimate(config: PretrainConfig, images: int, resolved_in: float, logger: Logger) -> Estimate:
    """Rehearse the run in a fresh process and extrapolate.

    Args:
        config: of the run.
        images: how many its source has.
        resolved_in: seconds that reading and measuring the images took.
        logger: is told how far the rehearsal is.

    Raises:
        UserError: what the run itself would say; or the rehearsal was killed, most often for want of memory.
    """
    began, found = time.monotonic(), dict[str, Any]()

    def ticks() -> Iterator[None]:
        for line in _lines(config):
            found.update({"ready": time.monotonic()} if "ready" in line else line)
            if not line:
                yield

    for _ in logger.progress(ticks(), TICKS, "rehearsing"):
        pass
    if "error" in found:
        raise UserError(found["error"])
    device = choose_device(config.run.device)
    per_epoch, rule = images // config.batch_size, config.refresh
    steps = config.epochs * per_epoch
    if config.images is not None:
        steps = min(steps, config.images // config.batch_size)
    times = 0
    if rule is not None:
        every = rule.every_steps or rule.every_epochs * per_epoch
        times = -(-steps // every)
    return Estimate(
        starting=resolved_in + found["ready"] - began + found["first"],
        filling=found["filling"] * per_epoch,
        training=found["step"] * steps,
        refreshes=found["refresh"] * times,
        looking=found["embedding"]
        * min(LOOKED_AT, images)
        * (1 + VIEWS_PER_IMAGE)
        * min(config.run.snapshots, config.epochs),
        reporting=found["embedding"] * sample_size(images, preprocessing_of(config).size, device) + MAP_SECONDS,
        step=found["step"],
        steps=found["steps"],
        main_memory=found["main"],
        worker_memory=found["workers"],
        device_memory=found["device"],
    )


def _lines(config: PretrainConfig) -> Iterator[dict[str, Any]]:
    """What the rehearsing process says."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(COMMAND, **pipes, text=True, env=os.environ | paths) as child:  # type: ignore[call-overload]
        try:
            child.stdin.write(json.dumps(to_dict(config)))
            child.stdin.close()
            yield from map(json.loads, child.stdout)
        except BaseException:
            child.kill()
            raise
    if child.returncode == -9:
        raise UserError(
            "the rehearsal was killed, most often for want of memory: use a smaller --batch-size or --backbone, smaller "
            "views.crops or fewer run.workers"
        )
    if child.returncode:
        raise RuntimeError(f"the rehearsal ended with status {child.returncode}")
