"""From the options of ``train``, ``predict`` and ``evaluate`` to detectors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from coterie.config.hardware import Runtime
from coterie.config.options import (
    DetectionOptions,
    EvaluationOptions,
    check_options,
    label_columns,
    machine_options,
    model_options,
)
from coterie.data.loading.center_crop import Preprocessing
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
from coterie.exporting.model import Model, open_model
from coterie.exporting.preprocessing import IMAGENET_MEAN, IMAGENET_STD, with_options
from coterie.logger import Logger
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.training.time_limit import TimeLimit

NEW = "none"
"""In place of a MODEL: random weights."""
OF_CLASSIFIERS = ("classifier", "balanced", "labels", "label_column", "label_key")
"""Options of ``train`` that mean nothing for a detector."""


def refuse_without_boxes(options: Mapping[str, Any]) -> None:
    """Refuse options of detectors where no detector is trained.

    Args:
        options: of ``train``, without ``boxes``.

    Raises:
        BadConfig: one of them is given.
    """
    given = next((name for name in DetectionOptions.__annotations__ if options.get(name) is not None), None)
    if given is not None:
        raise BadConfig(f"--{given.replace('_', '-')} is for detectors: give --boxes FILE too, or leave it out")


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
    refused = next((name for name in OF_CLASSIFIERS if options.get(name)), None)
    if refused is not None:
        raise BadConfig(
            f"--{refused.replace('_', '-')} is for classifiers, and --boxes trains a detector: give one of them"
        )
    boxes = options["boxes"]
    boxed, source = _boxed(boxes, images, options, logger)
    runtime = _runtime(options, logger)
    wishes = DetectionWishes(
        options.get("detector"), **{name: options[name] for name in _WISHES if options.get(name) is not None}
    )
    asked = {"model": str(model), "boxes": str(boxes), "source": list(source)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wishes.seed)
        opened = _opened(model, options, runtime)
    return train_detector(opened, boxed, out, runtime, wishes, asked=asked, limit=limit)


_WISHES = ("schedule", "epochs", "batch_size", "learning_rate", "size", "seed")


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
    runtime = _runtime(options, logger)
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
    """Test a detector on images with boxes as a caller gives them.

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
    if boxes is None:
        raise BadConfig(f"{path} is a detector: give the boxes of the images, as in --boxes FILE.json")
    refused = next((name for name, value in model_options(options).items() if value is not None), None)
    if refused is not None:
        raise BadConfig(f"{path} is a detector, which knows its network and its images: leave out --{refused}")
    runtime = _runtime(options, logger)
    detector = open_detector(path, runtime.device)
    boxed, _ = _boxed(boxes, test, {**options, "detector": detector.settings.kind}, logger)
    return evaluate_detector(detector, boxed, runtime)


def _boxed(
    boxes: str | Path, images: Data, options: Mapping[str, Any], logger: Logger
) -> tuple[BoxedSource, tuple[str, ...]]:
    """The images of a file of boxes, and where they are."""
    file, columns = read_boxes(boxes, masks=options.get("detector") == "mask_rcnn"), label_columns(options)
    given = given_data(images, "images", columns=columns, logger=logger)
    return find_images(file, given.open(columns, logger)), given.specs


def _runtime(options: Mapping[str, Any], logger: Logger) -> Runtime:
    """Always float32: in bfloat16, RetinaNet's loss was not finite after three steps."""
    if options.get("precision", "auto") == "bfloat16":
        raise BadConfig("--precision is bfloat16: a detector computes in float32; leave it out")
    return Runtime.choose(**machine_options(options) | {"precision": "float32"}, logger=logger)


def _opened(model: str | Path, options: Mapping[str, Any], runtime: Runtime) -> Model:
    """The MODEL, or a network with random weights from torch's global generator."""
    given = model_options(options)
    for name in ("crop", "interpolation"):
        if given.get(name) is not None:
            raise BadConfig(f"--{name} is for networks that see a square of each image: a detector sees the whole")
    size = given.pop("size", None)
    if str(model) != NEW:
        return open_model(model, runtime.device, **given)
    name = given.pop("backbone", None)
    if not isinstance(name, str):
        raise BadConfig("MODEL none: name the network of the new weights, as in --backbone resnet18")
    look = with_options(Preprocessing(size or 224, 3, IMAGENET_MEAN, IMAGENET_STD), size=size, **given)
    config = BackboneConfig(name)
    network = build_backbone(config, look.size).to(runtime.device)
    return Model(NEW, network, config, look.size, look, lines=(f"{name}: new weights", f"images: {look}"))
