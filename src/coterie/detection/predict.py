"""Writes what a detector finds as COCO results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource
from coterie.detection.average_precision import coco_box, require_pycocotools
from coterie.detection.boxes import BoxedSource
from coterie.detection.detect import Detections, detect
from coterie.detection.detector_file import Detector
from coterie.errors import BadConfig, NoImages
from coterie.evaluation.input_checks import warn_of_undecodable


def check_results_file(out: str | Path) -> None:
    """Refuse a file of another kind before anything is detected.

    Raises:
        BadConfig: its name does not end in .json.
    """
    if Path(out).suffix != ".json":
        raise BadConfig(f"--out {out}: a detector writes COCO results: name a file that ends in .json")


def write_detections(
    detector: Detector, images: ImageSource | BoxedSource, out: str | Path, runtime: Runtime
) -> list[Detections]:
    """Write the objects in each image to a file, atomically: a list of COCO results.

    Each has ``image_id``, ``category_id`` (that of the training file), ``bbox`` (left, top, width, height) and ``score``, of a
    Mask R-CNN ``segmentation`` (packed RLE), and beside these ``file_name`` and ``category``, which pycocotools ignores.

    Args:
        detector: on the device of ``runtime``.
        images: a source, whose images get the ids 1, 2, ... in their order; or images of a file of boxes, with its ids.
        out: the file.
        runtime: where and how to compute; its logger receives messages and progress.

    Returns:
        What was found in each image that could be decoded.

    Raises:
        UserError: no image can be decoded, or the file cannot be written.
    """
    logger = runtime.logger
    if detector.settings.kind == "mask_rcnn":
        require_pycocotools()
    for line in detector.model.lines:
        logger.info(line)
    source = images.source if isinstance(images, BoxedSource) else images
    positions: Sequence[int] = images.positions if isinstance(images, BoxedSource) else range(len(images))
    numbers = (
        [each.number for each in images.file.images]
        if isinstance(images, BoxedSource)
        else range(1, len(positions) + 1)
    )
    results, kept, bad = list[dict[str, Any]](), list[Detections](), list[tuple[int, str]]()
    for number, each in zip(numbers, detect(detector, source, positions, runtime), strict=True):
        if isinstance(each, Detections):
            results += _results(detector, each, number, source.name(each.position))
            kept.append(each)
        else:
            bad.append(each)
    warn_of_undecodable(bad, "images", source.name, logger)
    if not kept:
        raise NoImages("no image can be decoded")
    lines = ",\n".join(json.dumps(each) for each in results)
    write_text(out, f"[\n{lines}\n]\n" if lines else "[]\n")
    return kept


def _results(detector: Detector, found: Detections, number: int, name: str) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": detector.numbers[label],
            "bbox": [round(value, 2) for value in coco_box(edges)],
            "score": round(float(score), 5),
            "file_name": name,
            "category": detector.categories[label],
            **({"segmentation": found.masks[row]} if found.masks else {}),
        }
        for row, (edges, label, score) in enumerate(zip(found.boxes, found.labels, found.scores, strict=True))
    ]
