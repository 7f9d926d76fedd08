"""From the options of ``train``, ``predict`` and ``evaluate`` to segmenters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from coterie.config.hardware import Runtime
from coterie.config.options import (
    EvaluationOptions,
    check_options,
    label_columns,
    model_options,
)
from coterie.data.sources.own_data import Data, given_data
from coterie.errors import BadConfig
from coterie.evaluation.evaluation_file import note_evaluation
from coterie.logger import Logger
from coterie.paths import expand
from coterie.segmentation.classes import Classes
from coterie.segmentation.evaluate import SegmenterResults, evaluate_segmenter
from coterie.segmentation.masks import MaskedSource, open_masks
from coterie.segmentation.predict import SegmentedFolder, check_masks_folder, write_masks
from coterie.segmentation.segmenter_file import Segmenter, open_segmenter
from coterie.segmentation.train import SegmentationWishes, TrainedSegmenter, chosen_schedule, train_segmenter
from coterie.training.model_or_new import float32_runtime, open_model_or_new
from coterie.training.time_limit import TimeLimit
from coterie.training.train_in_folder import wishes_among

WHAT = "a segmenter"
_OF_OTHERS = ("classifier", "balanced", "labels", "label_column", "label_key", "detector", "boxes", "test_boxes")


def train_segmenter_given(
    model: str | Path,
    images: Data,
    out: str | Path,
    options: Mapping[str, Any],
    limit: TimeLimit | None,
    logger: Logger,
) -> TrainedSegmenter:
    """Train a segmenter as a caller asks for it.

    Args:
        model: a MODEL, or ``none`` for new weights of ``backbone``.
        images: the images of the masks.
        out: the segmenter's folder.
        options: of ``train``, with ``masks``.
        limit: the budget of ``time``; None: as long as the schedule takes.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refuse_for_segmenter(options)
    masks, wishes = options["masks"], given_wishes(options, limit)
    runtime = float32_runtime(options, WHAT, logger)
    masked, source = masked_images(masks, images, options, runtime)
    asked = {"model": str(model), "masks": str(masks), "source": list(source)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wishes.seed)
        opened = open_model_or_new(model, options, WHAT, runtime)
    return train_segmenter(opened, masked, out, runtime, wishes, asked=asked, limit=limit)


def predict_masks(
    path: str | Path, data: Data, out: str | Path, options: Mapping[str, Any], logger: Logger
) -> tuple[Segmenter, SegmentedFolder]:
    """Write what a segmenter finds to a folder.

    Args:
        path: of the segmenter.
        data: the images.
        out: the folder.
        options: of ``predict``.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    check_masks_folder(out)
    refused = next((name for name in ("part_images", "ray", "actors", "boxes") if options.get(name)), None)
    if refused is not None:
        raise BadConfig(
            f"--{refused.replace('_', '-')} is not for a segmenter, which writes a folder of masks: leave it out"
        )
    runtime = float32_runtime(options, WHAT, logger)
    segmenter = open_segmenter(path, runtime.device)
    columns = label_columns(options)
    source = given_data(data, columns=columns, logger=logger).open(columns, logger)
    return segmenter, write_masks(segmenter, source, out, runtime)


def evaluate_segmenter_given(
    path: str | Path, test: Data, options: EvaluationOptions, logger: Logger
) -> SegmenterResults:
    """Test a segmenter on images with masks as a caller gives them; its folder keeps the figures.

    Args:
        path: of the segmenter.
        test: the images.
        options: of ``evaluate``, with ``masks``; those of how a MODEL is opened are refused, as the file says it all.
        logger: receives messages and progress.

    Raises:
        UserError: an option that a segmenter does not take, or images that cannot be used.
    """
    check_options(options, EvaluationOptions)
    masks = options.get("masks")
    if masks is None:
        raise BadConfig(f"{path} is a segmenter: give the masks of the images, as in --masks DIR")
    refused = next((name for name, value in model_options(options).items() if value is not None), None)
    if refused is not None or options.get("boxes") is not None:
        raise BadConfig(
            f"{path} is a segmenter, which knows its network and its images: leave out --{refused or 'boxes'}"
        )
    runtime = float32_runtime(options, WHAT, logger)
    segmenter = open_segmenter(path, runtime.device)
    masked, source = masked_images(masks, test, options, runtime, segmenter.classes)
    found = evaluate_segmenter(segmenter, masked, runtime)
    if expand(path).is_dir():
        note_evaluation(expand(path), {"images": list(source), "masks": str(masks)}, found, logger)
    return found


def masked_images(
    masks: str | Path, images: Data, options: Mapping[str, Any], runtime: Runtime, default: Classes | None = None
) -> tuple[MaskedSource, tuple[str, ...]]:
    """The images of masks, and where they are.

    Args:
        masks: a folder, or a list of VOC.
        images: the images.
        options: of a command; they say where the images are in tables, and the names of classes.
        runtime: its logger shows progress, its workers read masks.
        default: as of :func:`coterie.segmentation.masks.open_masks`.

    Raises:
        UserError: masks cannot be used, or have no images.
    """
    columns, logger = label_columns(options), runtime.logger
    given = given_data(images, "images", columns=columns, logger=logger)
    source = given.open(columns, logger)
    return open_masks(masks, options.get("classes"), source, logger, runtime.workers, default), given.specs


def refuse_for_segmenter(options: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for the training of a segmenter.

    Args:
        options: of ``train`` or ``transfer``.

    Raises:
        BadConfig: one of them is given.
    """
    refused = next((name for name in _OF_OTHERS if options.get(name)), None)
    if refused is not None:
        raise BadConfig(
            f"--{refused.replace('_', '-')} is not for segmenters, and --masks trains one: give one of them"
        )


def given_wishes(options: Mapping[str, Any], limit: TimeLimit | None = None) -> SegmentationWishes:
    """What some options ask of the training of a segmenter, checked before masks are read, which may take minutes.

    Args:
        options: of ``train`` or ``transfer``.
        limit: as of :func:`train_segmenter_given`.

    Raises:
        BadConfig: there is no such head or schedule, or a number cannot be.
    """
    blocks = options.get("blocks")
    wishes = SegmentationWishes(
        head=options.get("head"),
        blocks=() if blocks is None else (blocks,) if isinstance(blocks, int) else tuple(blocks),
        **wishes_among(options),
    )
    chosen_schedule(wishes, limit)
    return wishes
