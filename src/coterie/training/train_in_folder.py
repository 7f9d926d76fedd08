"""What all detectors and segmenters are trained by: wishes, steps that fit into a time, a folder that keeps them."""

import copy
import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from coterie.config.hardware import Runtime
from coterie.errors import BadConfig, did_you_mean
from coterie.formatting import format_duration
from coterie.logger import NullLogger
from coterie.training.profiling.step_timer import StepTimer
from coterie.training.supervised_training import SupervisedTraining
from coterie.training.time_limit import TimeLimit
from coterie.training.trained_folder import TrainedFolder
from coterie.training.training_checkpoints import TrainingCheckpoints

_LEAST_STEPS, _MOST_STEPS = 4, 20
"""That are rehearsed to know how many fit into a time."""
_REHEARSED = 50 * _MOST_STEPS
"""Steps of a training that is rehearsed: its warm-up outlasts the rehearsal, which cannot diverge then."""

Schedule = TypeVar("Schedule")
Network = TypeVar("Network", bound=nn.Module)


def find_schedule(name: str, schedules: Mapping[str, Schedule]) -> Schedule:
    """A schedule by its name.

    Raises:
        BadConfig: there is none of this name.
    """
    if name not in schedules:
        raise BadConfig(
            f"there is no schedule {name}: use one of {', '.join(schedules)}{did_you_mean(name, schedules)}"
        )
    return schedules[name]


def check_wishes(given: Mapping[str, float | None], limit: TimeLimit | None) -> None:
    """Refuse numbers that are not above 0, and two answers to how long to train.

    Args:
        given: options by name; None where nothing is asked for.
        limit: how long it may take.

    Raises:
        BadConfig: one of them cannot be.
    """
    for name, value in given.items():
        if value is not None and not 0 < value < 2**31:
            raise BadConfig(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    if limit is not None and given.get("epochs") is not None:
        raise BadConfig("--time and --epochs both say how long to train: give one of them")


def steps_that_fit(
    make: Callable[[Network, int, Runtime], SupervisedTraining[Any]],
    network: Network,
    limit: TimeLimit,
    runtime: Runtime,
) -> int:
    """How many steps fit into a time, as some steps on a copy of the network say.

    Args:
        make: a training of a network, of so many steps.
        network: is not changed.
        limit: the time.
        runtime: where and how to compute; its logger is told.
    """
    timer = StepTimer(limit.rehearsal, _MOST_STEPS, runtime.device, least=_LEAST_STEPS)
    make(copy.deepcopy(network), _REHEARSED, replace(runtime, logger=NullLogger())).run(passed=timer.over)
    steps = max(1, int(limit.left / timer.typical))
    runtime.logger.info(f"a step takes {format_duration(timer.typical)}: {steps:,} steps fit into --time")
    return steps


def train_in_folder(training: SupervisedTraining[Any], folder: TrainedFolder, save: Callable[[], object]) -> None:
    """Train to the end, from wherever an earlier call was stopped, and write the file.

    Args:
        training: what is trained.
        folder: keeps its checkpoints, its log and the images that could not be used.
        save: writes the file.
    """
    checkpoints = TrainingCheckpoints(folder, training)
    checkpoints.resume(training.runtime.logger)
    with checkpoints.stopping_on_signals():
        training.run(after_step=checkpoints.after_step, log=checkpoints.log)
    checkpoints.save()
    training.network.eval()
    folder.write_bad_images(training.bad.items())
    save()
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def first_and_last_loss(folder: TrainedFolder) -> tuple[float, float]:
    """The mean losses of the first and of the last tenth of the lines of the log."""
    losses = [record["loss"] for record in folder.records() if "loss" in record] or [float("nan")]
    tenth = max(1, len(losses) // 10)
    return statistics.fmean(losses[:tenth]), statistics.fmean(losses[-tenth:])


def remark_of_bad(bad: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence about images that could not be used, if there are any."""
    if not bad:
        return ()
    name, reason = min(bad.items())
    return (f"{len(bad):,} images could not be used and are left out (bad_images.txt); {name}: {reason}",)
