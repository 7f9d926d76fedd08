"""Trains a segmenter that is kept: a schedule for images and time, steps that can be stopped, and its file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from coterie.config.duration import format_minutes
from coterie.config.hardware import Runtime
from coterie.embedding.cache import state_key
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.exporting.model import Model
from coterie.formatting import first_few
from coterie.logger import Logger
from coterie.segmentation.heads import HeadKind
from coterie.segmentation.masks import MaskedSource
from coterie.segmentation.network import SegmentationNetwork, SegmenterSettings
from coterie.segmentation.schedules import PUBLISHED, SMALL, SegmentationSchedule
from coterie.segmentation.segmenter_file import Segmenter, new_segmenter, open_segmenter, save_segmenter
from coterie.segmentation.segmenter_training import SegmenterTraining
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
class SegmentationWishes(Wishes):
    """What a user may ask of the training of a segmenter.

    Schedules are ``small`` and :data:`coterie.segmentation.schedules.PUBLISHED`.

    Attributes:
        head: ``linear``, ``fcn`` or ``upernet``; None: that of the schedule.
        blocks: numbers of the intermediate maps that the head sees; (): chosen by its kind.
    """

    head: str | None = None
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainedSegmenter(ShownInTables):
    """What :func:`train_segmenter` made.

    Attributes:
        segmenter: ready to use, on the device of its training.
        folder: that it is kept in.
        steps: of its training.
        losses: the means of the first and of the last tenth of the steps.
        remarks: sentences for people.
    """

    segmenter: Segmenter
    folder: Path
    steps: int
    losses: tuple[float, float]
    remarks: tuple[str, ...] = ()

    def tables(self) -> Sequence[TextTable | str]:
        """What it is, in sentences: no figure says how good it is before it sees other images."""
        first, last = self.losses
        loss = f"{self.steps:,} steps, loss {first:.3f} at first, {last:.3f} at last"
        return [f"a {self.segmenter.name}: {loss}; test it on other images: coterie evaluate", *self.remarks]


def train_segmenter(
    model: Model,
    masked: MaskedSource,
    out: str | Path,
    runtime: Runtime,
    wishes: SegmentationWishes,
    *,
    asked: Mapping[str, Any],
    limit: TimeLimit | None = None,
) -> TrainedSegmenter:
    """Train a segmenter on images with masks, and keep it in a folder; one that was stopped goes on where it was.

    On the same machine, with as many threads, a training that was stopped gives the same bits as one that was not.

    Args:
        model: the network, on the device of ``runtime``. Under a linear head it stays as it is; else all layers are trained,
            and its batch norms normalize with the statistics of each batch.
        masked: images and masks.
        out: the folder.
        runtime: where and how to compute; its logger receives messages and progress.
        wishes: what the user asked for.
        asked: what else ``config.toml`` says that was asked.
        limit: how long it may take, which sets the number of steps; None: as long as the schedule says.

    Raises:
        UserError: masks, wishes or folder cannot be used, in one line.
    """
    logger, schedule = runtime.logger, chosen_schedule(wishes, limit)
    for line in model.lines[:1]:
        logger.info(line)
    _check_masks(masked, logger)
    masked = replace(masked, value_range=model.preprocessing.value_range)
    given = asdict(replace(wishes, head=schedule.head, schedule=wishes.schedule or "small"))
    given |= {} if limit is None else {"time": format_minutes(limit.minutes)}
    given["blocks"] = list(wishes.blocks) or None
    facts = {"images": masked.key, "network": state_key(model.network.state_dict())}
    folder = TrainedFolder(out, "segmenter", {**asked, **given, **facts})
    try:
        if folder.file.is_file():
            logger.info(f"{folder.path}: this segmenter is complete")
            return _trained(open_segmenter(folder.path, runtime.device), folder, int(folder.chosen["steps"]), {})
        settings = segmenter_settings(schedule, wishes, masked, runtime)
        torch.manual_seed(wishes.seed)
        about = facts_of(model.name, len(masked.positions))
        segmenter = new_segmenter(model, settings, masked.classes, runtime.device, about)
        segmenter.network.train()

        def training_of(network: SegmentationNetwork, total: int, runtime: Runtime) -> SegmenterTraining:
            return SegmenterTraining(network, masked, settings, schedule, total, wishes.seed, runtime)

        steps = int(folder.chosen.get("steps", 0)) or steps_to_train(
            schedule.steps_of(len(masked.positions)), training_of, segmenter.network, limit, runtime
        )
        logger.info(_line(segmenter, masked, steps, schedule))
        folder.write_config(**asdict(schedule) | asdict(settings) | {"steps": steps})
        training = training_of(segmenter.network, steps, runtime)
        train_in_folder(training, folder, lambda: save_segmenter(folder.path, segmenter))
        return _trained(segmenter, folder, steps, training.bad)
    finally:
        folder.close()


def chosen_schedule(wishes: SegmentationWishes, limit: TimeLimit | None) -> SegmentationSchedule:
    """The schedule that was asked for, with what was asked beside it.

    Raises:
        BadConfig: there is no such schedule or head, or they do not go together.
    """
    heads: tuple[HeadKind, ...] = get_args(HeadKind)
    if wishes.head is not None and wishes.head not in heads:
        raise BadConfig(f"--head is {wishes.head}: use {', '.join(heads)}{did_you_mean(wishes.head, heads)}")
    small = SMALL["linear" if wishes.head is None else wishes.head]
    schedule = find_schedule(wishes.schedule or "small", {"small": small, **PUBLISHED})
    if wishes.head is not None and schedule.head != wishes.head:
        raise BadConfig(
            f"--schedule {wishes.schedule} is for --head {schedule.head}, not {wishes.head}: leave out --head"
        )
    schedule = replace(schedule, **wished_values(wishes, limit, _SMALLEST, "a segmenter"))
    if wishes.size is not None:
        schedule = replace(schedule, short_side=wishes.size, longest=max(schedule.longest, 4 * wishes.size))
    return schedule


def segmenter_settings(
    schedule: SegmentationSchedule, wishes: SegmentationWishes, masked: MaskedSource, runtime: Runtime
) -> SegmenterSettings:
    """By what a segmenter is built, for a schedule and some images."""
    largest = _LARGEST_CPU if runtime.device.type == "cpu" else _LARGEST
    side = schedule.short_side or max(_SMALLEST, min(masked.short_side, largest))
    return SegmenterSettings(schedule.head, wishes.blocks, schedule.width, side, schedule.longest)


def _trained(segmenter: Segmenter, folder: TrainedFolder, steps: int, bad: Mapping[str, str]) -> TrainedSegmenter:
    return TrainedSegmenter(segmenter, folder.path, steps, first_and_last_loss(folder), remark_of_bad(bad))


def _line(segmenter: Segmenter, masked: MaskedSource, steps: int, schedule: SegmentationSchedule) -> str:
    """What is trained, in a line."""
    side = f"short side {segmenter.settings.short_side} pixels"
    maps = f"maps {', '.join(map(str, segmenter.network.places))} of the network"
    kept = "which stays as it is" if segmenter.network.frozen else "which is trained too"
    return (
        f"{segmenter.name}: {len(masked.positions):,} images; {side}; {maps}, {kept}; {steps:,} steps of "
        f"{schedule.batch_size} images"
    )


def _check_masks(masked: MaskedSource, logger: Logger) -> None:
    """Refuse masks that teach nothing; what there is to say about the others, and classes without a pixel, are said.

    Raises:
        UserError: fewer than two classes have pixels to train on.
    """
    names = masked.classes.names
    if np.count_nonzero(masked.counts) < 2:
        raise UserError(f"{masked.where}: fewer than two of the classes of {masked.classes.where} are in these masks")
    for remark in masked.remarks:
        logger.warning(remark)
    none = [name for name, count in zip(names, masked.counts, strict=True) if not count]
    if none:
        logger.warning(f"{masked.where}: there is no pixel of {first_few(none, ', ')}, which will not be found")
