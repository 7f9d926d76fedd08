"""From the options of ``train``, ``predict`` and ``evaluate`` to detectors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coterie.config.options import (
    EvaluationOptions,
    SegmentationOptions,
    check_options,
    label_columns,
    model_options,
)
from coterie.data.sources.own_data import Data, given_data
from coterie.data.sources.source import ImageSource
from coterie.detection.boxes import BoxedSource, find_images
from coterie.detection.coco import read_image_list
from coterie.detection.detect import Detections
from coterie.detection.detector_file import Detector, open_detector
from coterie.detection.evaluate import DetectorResults, evaluate_detector
from coterie.detection.predict import check_results_file, write_detections
from coterie.detection.train import DetectionWishes, TrainedDetector, train_detector
from coterie.detection.voc import read_boxes
from coterie.errors import BadConfig
from coterie.evaluation.evaluation_file import note_evaluation
from coterie.logger import Logger
from coterie.paths import expand
from coterie.training.model_or_new import float32_runtime, open_model_or_new
from coterie.training.time_limit import TimeLimit
from coterie.training.train_in_folder import wishes_among

WHAT = "a detector"
_OF_CLASSIFIERS = ("classifier", "balanced", "labels", "label_column", "label_key")
_OF_SEGMENTERS = (*SegmentationOptions.__annotations__, "test_masks")


def train_detector_given(
    model: str | Path,
    images: Data,
    out: str | Path,
    options: Mapping[str, Any],
    limit: TimeLimit | None,
    logger: Logger,
) -> TrainedDetector:
    """Train a detector as a caller asks for it.

    Args:
        model: a MODEL, or ``none`` for new weights of ``backbone``.
        images: the images of the boxes.
        out: the detector's folder.
        options: of ``train``, with ``boxes``.
        limit: the budget of ``time``; None: as long as the schedule takes.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refuse_for_detector(options)
    boxes = options["boxes"]
    boxed, source = boxed_images(boxes, images, options, logger)
    runtime = float32_runtime(options, WHAT, logger)
    wishes = given_wishes(options)
    asked = {"model": str(model), "boxes": str(boxes), "source": list(source)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wishes.seed)
        opened = open_model_or_new(model, options, WHAT, runtime)
    return train_detector(opened, boxed, out, runtime, wishes, asked=asked, limit=limit)


def predict_boxes(
    path: str | Path, data: Data, out: str | Path, options: Mapping[str, Any], logger: Logger
) -> tuple[Detector, ImageSource, list[Detections]]:
    """Write what a detector finds to a file.

    Args:
        path: of the detector.
        data: the images.
        out: the ``.json`` file.
        options: of ``predict``.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    check_results_file(out)
    refused = next((name for name in ("part_images", "ray", "actors") if options.get(name)), None)
    if refused is not None:
        raise BadConfig(f"--{refused.replace('_', '-')} is for a folder of parts: a detector writes one file")
    runtime = float32_runtime(options, WHAT, logger)
    detector = open_detector(path, runtime.device)
    columns = label_columns(options)
    source = given_data(data, columns=columns, logger=logger).open(columns, logger)
    if options.get("boxes") is None:
        return detector, source, write_detections(detector, source, out, runtime)
    images = find_images(read_image_list(options["boxes"]), source)
    for remark in images.file.remarks:
        logger.warning(remark)
    return detector, source, write_detections(detector, images, out, runtime)


def evaluate_detector_given(
    path: str | Path, test: Data, options: EvaluationOptions, logger: Logger
) -> DetectorResults:
    """Test a detector on images with boxes as a caller gives them; its folder keeps the figures.

    Args:
        path: of the detector.
        test: the images.
        options: of ``evaluate``, with ``boxes``; those of how a MODEL is opened are refused, as the file says it all.
        logger: receives messages and progress.

    Raises:
        UserError: an option that a detector does not take, or images that cannot be used.
    """
    check_options(options, EvaluationOptions)
    boxes = options.get("boxes")
    if options.get("masks") is not None or options.get("classes") is not None:
        raise BadConfig(f"--masks and --classes are for segmenters, and {path} is a detector: leave them out")
    if boxes is None:
        raise BadConfig(f"{path} is a detector: give the boxes of the images, as in --boxes FILE.json")
    refused = next((name for name, value in model_options(options).items() if value is not None), None)
    if refused is not None:
        raise BadConfig(f"{path} is a detector, which knows its network and its images: leave out --{refused}")
    runtime = float32_runtime(options, WHAT, logger)
    detector = open_detector(path, runtime.device)
    boxed, source = boxed_images(boxes, test, {**options, "detector": detector.settings.kind}, logger)
    found = evaluate_detector(detector, boxed, runtime)
    if expand(path).is_dir():
        note_evaluation(expand(path), {"images": list(source), "boxes": str(boxes)}, found, logger)
    return found


def boxed_images(
    boxes: str | Path, images: Data, options: Mapping[str, Any], logger: Logger, *, some: bool = False
) -> tuple[BoxedSource, tuple[str, ...]]:
    """The images of a file of boxes, and where they are.

    Args:
        boxes: the file, or a folder of VOC.
        images: the images.
        options: of a command; they say where the images are in tables, and which detector needs masks.
        logger: is told how images were found, where that was a choice.
        some: whether images of the file may be missing.

    Raises:
        UserError: the file cannot be used, or its images are not found.
    """
    file, columns = read_boxes(boxes, masks=options.get("detector") == "mask_rcnn"), label_columns(options)
    given = given_data(images, "images", columns=columns, logger=logger)
    return find_images(replace(file, complete=file.complete and not some), given.open(columns, logger)), given.specs


def refuse_for_detector(options: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for the training of a detector.

    Args:
        options: of ``train`` or ``transfer``.

    Raises:
        BadConfig: one of them is given.
    """
    refused = next((name for name in (*_OF_CLASSIFIERS, *_OF_SEGMENTERS) if options.get(name)), None)
    if refused is not None:
        others = "classifiers" if refused in _OF_CLASSIFIERS else "segmenters"
        raise BadConfig(
            f"--{refused.replace('_', '-')} is for {others}, and --boxes trains a detector: give one of them"
        )


def given_wishes(options: Mapping[str, Any]) -> DetectionWishes:
    """What some options ask of the training of a detector.

    Args:
        options: of ``train`` or ``transfer``.
    """
    return DetectionWishes(kind=options.get("detector"), **wishes_among(options))
