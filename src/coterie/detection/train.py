"""Trains a detector that is kept: a schedule for images and time, steps that can be stopped, and its file."""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from coterie.config.duration import format_minutes
from coterie.config.hardware import Runtime
from coterie.data.sources.source import Subset
from coterie.detection.average_precision import require_pycocotools
from coterie.detection.boxes import BoxedSource
from coterie.detection.detector import DetectorKind, DetectorSettings
from coterie.detection.detector_file import Detector, new_detector, open_detector, save_detector
from coterie.detection.detector_training import DetectorTraining
from coterie.detection.masks import check_masks, masks_key
from coterie.detection.schedules import SCHEDULES, DetectionSchedule
from coterie.embedding.cache import source_key, state_key
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.exporting.model import Model
from coterie.formatting import first_few
from coterie.logger import Logger
from coterie.table import ShownInTables, TextTable
from coterie.training.time_limit import TimeLimit
from coterie.training.train_in_folder import (
    Wishes,
    facts_of,
    find_schedule,
    first_and_last_loss,
    remark_of_bad,
    steps_to_train,
    train_in_folder,
    wished_values,
)
from coterie.training.trained_folder import TrainedFolder

_SMALLEST, _LARGEST_CPU, _LARGEST = 64, 320, 800
"""Pixels of the short side: at least, as a batch norm needs several values at a stride of 32 in a single image; and at most,
where it is chosen by itself, on a CPU and on a GPU."""


@dataclass(frozen=True, kw_only=True)
class DetectionWishes(Wishes):
    """What a user may ask of the training of a detector; schedules are :data:`coterie.detection.schedules.SCHEDULES`.

    Attributes:
        kind: ``faster_rcnn``, ``mask_rcnn`` or ``retinanet``; None: the first.
    """

    kind: str | None = None


@dataclass(frozen=True)
class TrainedDetector(ShownInTables):
    """What :func:`train_detector` made.

    Attributes:
        detector: ready to use, on the device of its training.
        folder: that it is kept in.
        steps: of its training.
        losses: the means of the first and of the last tenth of the steps.
        remarks: sentences for people.
    """

    detector: Detector
    folder: Path
    steps: int
    losses: tuple[float, float]
    remarks: tuple[str, ...] = ()

    def tables(self) -> Sequence[TextTable | str]:
        """What it is, in sentences: no figure says how good it is before it sees other images."""
        first, last = self.losses
        loss = f"{self.steps:,} steps, loss {first:.3f} at first, {last:.3f} at last"
        return [f"a {self.detector.name}: {loss}; test it on other images: coterie evaluate", *self.remarks]


def train_detector(
    model: Model,
    boxed: BoxedSource,
    out: str | Path,
    runtime: Runtime,
    wishes: DetectionWishes,
    *,
    asked: Mapping[str, Any],
    limit: TimeLimit | None = None,
) -> TrainedDetector:
    """Train a detector on images with boxes, and keep it in a folder; one that was stopped goes on where it was.

    On the same machine, with as many threads, a training that was stopped gives the same bits as one that was not.

    Args:
        model: the network, on the device of ``runtime``; its layers are all trained, and its batch norms normalize with the
            statistics of each batch.
        boxed: images and boxes.
        out: the folder.
        runtime: where and how to compute; its logger receives messages and progress.
        wishes: what the user asked for.
        asked: what else ``config.toml`` says that was asked.
        limit: how long it may take, which sets the number of steps; None: as long as the schedule says.

    Raises:
        UserError: boxes, wishes or folder cannot be used, in one line.
    """
    logger, file = runtime.logger, boxed.file
    kind, schedule = _kind(wishes.kind), _schedule(wishes, limit)
    for line in model.lines[:1]:
        logger.info(line)
    _check_boxes(boxed, logger)
    boxed = replace(boxed, value_range=model.preprocessing.value_range)
    given = asdict(replace(wishes, kind=kind, schedule=wishes.schedule or "small"))
    given |= {} if limit is None else {"time": format_minutes(limit.minutes)}
    folder = TrainedFolder(out, "detector", {**asked, **given, **_facts(kind, boxed, model)})
    try:
        if folder.file.is_file():
            logger.info(f"{folder.path}: this detector is complete")
            return _trained(open_detector(folder.path, runtime.device), folder, int(folder.chosen["steps"]), {})
        settings = _settings(kind, schedule, boxed, runtime)
        torch.manual_seed(wishes.seed)
        about = facts_of(model.name, len(boxed.positions))
        detector = new_detector(model, settings, file.categories, file.numbers, runtime.device, about)
        detector.network.train()

        def training_of(network: nn.Module, total: int, runtime: Runtime) -> DetectorTraining:
            return DetectorTraining(network, boxed, schedule, total, wishes.seed, runtime)

        steps = int(folder.chosen.get("steps", 0)) or steps_to_train(
            schedule.steps_of(len(boxed.positions)), training_of, detector.network, limit, runtime
        )
        logger.info(_line(detector, boxed, steps, schedule.batch_size))
        folder.write_config(**asdict(schedule) | asdict(settings) | {"steps": steps})
        training = training_of(detector.network, steps, runtime)
        train_in_folder(training, folder, lambda: save_detector(folder.path, detector))
        return _trained(detector, folder, steps, training.bad)
    finally:
        folder.close()


def _facts(kind: DetectorKind, boxed: BoxedSource, model: Model) -> dict[str, str]:
    """What a training depends on besides what was asked.

    Raises:
        UserError: there are no masks for a Mask R-CNN, or pycocotools, which reads them, is not installed.
    """
    facts = {"images": boxed_key(boxed), "network": state_key(model.network.state_dict())}
    if kind == "mask_rcnn":
        require_pycocotools()
        check_masks(boxed.file)
        facts["masks"] = masks_key(boxed.file.images)
    return facts


def _trained(detector: Detector, folder: TrainedFolder, steps: int, bad: Mapping[str, str]) -> TrainedDetector:
    return TrainedDetector(detector, folder.path, steps, first_and_last_loss(folder), remark_of_bad(bad))


def _kind(name: str | None) -> DetectorKind:
    if name is None:
        return "faster_rcnn"
    if name not in get_args(DetectorKind):
        known = get_args(DetectorKind)
        raise BadConfig(f"--detector is {name}: use one of {', '.join(known)}{did_you_mean(name, known)}")
    return next(each for each in get_args(DetectorKind) if each == name)


def _schedule(wishes: DetectionWishes, limit: TimeLimit | None) -> DetectionSchedule:
    """The schedule that was asked for, with what was asked beside it."""
    schedule = find_schedule(wishes.schedule or "small", SCHEDULES)
    schedule = replace(schedule, **wished_values(wishes, limit, _SMALLEST, "a detector"))
    if wishes.size is not None:
        schedule = replace(schedule, short_sides=(wishes.size,), longest=max(schedule.longest, 2 * wishes.size))
    return schedule


def _settings(
    kind: DetectorKind, schedule: DetectionSchedule, boxed: BoxedSource, runtime: Runtime
) -> DetectorSettings:
    sides = schedule.short_sides or (_short_side(boxed, runtime),)
    heads = {name: getattr(schedule, name) for name in ("longest", "width", "hidden", "regions", "proposals")}
    return DetectorSettings(kind, sides, **heads)


def _line(detector: Detector, boxed: BoxedSource, steps: int, batch_size: int) -> str:
    """What is trained, in a line."""
    sides = dict.fromkeys((detector.settings.short_sides[0], detector.settings.short_sides[-1]))
    counts = f"{len(boxed.positions):,} images, {int(boxed.counts.sum()):,} boxes"
    side = " to ".join(map(str, sides))
    return f"{detector.name}: {counts}; short side {side} pixels; {steps:,} steps of {batch_size} images"


def _short_side(boxed: BoxedSource, runtime: Runtime) -> int:
    """The median short side of the images, at most what a device can take."""
    middle = round(statistics.median(min(each.width, each.height) for each in boxed.file.images))
    return max(_SMALLEST, min(middle, _LARGEST_CPU if runtime.device.type == "cpu" else _LARGEST))


def _check_boxes(boxed: BoxedSource, logger: Logger) -> None:
    """Refuse boxes that teach nothing; what the file has that is not used as it is, and categories without a box, are said.

    Raises:
        UserError: no image has a box to train on.
    """
    where = boxed.file.where
    if not boxed.counts.any():
        raise UserError(f"{where} has no boxes to train on in these images")
    for remark in boxed.file.remarks:
        logger.warning(remark)
    none = [name for name, count in zip(boxed.file.categories, boxed.counts, strict=True) if not count]
    if none:
        logger.warning(f"{where}: there is no box of {first_few(none, ', ')}, which will not be found")


def boxed_key(boxed: BoxedSource) -> str:
    """Identify images and boxes.

    Args:
        boxed: the images as they are now, and their boxes.
    """
    files = source_key(Subset(boxed.source, np.array(boxed.positions)))
    digest = hashlib.sha256(f"{files} {boxed.file.categories} {boxed.file.numbers}".encode())
    for each in boxed.file.images:
        digest.update(f"{each.name} {each.number} {each.width} {each.height}".encode())
        for part in (each.boxes, each.labels, each.ignored):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
