"""What all detectors and segmenters are trained by: wishes, steps that fit into a time, a folder that keeps them."""

import copy
import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
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


def wishes_among(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Wishes` that some options give.

    Args:
        options: of ``train`` or ``transfer``.
    """
    return {each.name: options[each.name] for each in fields(Wishes) if options.get(each.name) is not None}


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


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user may ask of any training; None: as the schedule says.

    Attributes:
        schedule: its name; None: ``small``.
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: the highest.
        size: short side of the images in pixels.
        seed: for new weights, and for all that the training draws.
    """

    schedule: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    size: int | None = None
    seed: int = 0


def wished_values(wishes: Wishes, limit: TimeLimit | None, smallest: int, what: str) -> dict[str, Any]:
    """The values of a schedule that a user asks for, but for ``size``.

    Args:
        wishes: of the user.
        limit: how long it may take.
        smallest: the least ``size``.
        what: what is trained, such as "a detector".

    Raises:
        BadConfig: a number is too small, or there are two answers to how long to train.
    """
    given = {name: getattr(wishes, name) for name in ("epochs", "batch_size", "learning_rate", "size")}
    for name, value in given.items():
        if value is not None and not 0 < value < 2**31:
            raise BadConfig(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    if limit is not None and wishes.epochs is not None:
        raise BadConfig("--time and --epochs both say how long to train: give one of them")
    if wishes.size is not None and wishes.size < smallest:
        raise BadConfig(
            f"--size is {wishes.size}: {what} needs images of {smallest} pixels or more; smaller ones are enlarged"
        )
    kept = {name: given[name] for name in ("batch_size", "learning_rate") if given[name] is not None}
    return kept if wishes.epochs is None else kept | {"steps": 0, "epochs": wishes.epochs, "least_steps": 1}


def steps_to_train(
    scheduled: int,
    make: Callable[[Network, int, Runtime], SupervisedTraining[Any]],
    network: Network,
    limit: TimeLimit | None,
    runtime: Runtime,
) -> int:
    """How many steps are scheduled, or fit into a time, as some steps on a copy of the network say.

    Args:
        scheduled: how many, without a time.
        make: a training of a network, of so many steps.
        network: is not changed.
        limit: the time; None: as the schedule says.
        runtime: where and how to compute; its logger is told.
    """
    if limit is None:
        return scheduled
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


def facts_of(model: str, images: int) -> dict[str, str]:
    """What a file says of its training: from which MODEL, when, and on how many images."""
    return {"model": model, "date": datetime.now(UTC).date().isoformat(), "images": str(images)}


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
