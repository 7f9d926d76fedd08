"""Average precision of detections, as COCO defines it: pycocotools' own figures."""

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coterie.detection.boxes import BoxedImage
from coterie.detection.detect import Detections
from coterie.detection.masks import packed
from coterie.errors import UserError

_FIGURES = {"map": 0, "ap50": 1, "ap75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "recall_100": 8}
"""Places of the figures among those that pycocotools summarizes."""


@dataclass(frozen=True)
class AveragePrecision:
    """How well objects are found, in percent.

    Attributes:
        figures: ``map`` (the mean over intersections over union of .5 to .95, and over categories), ``ap50``, ``ap75``,
            ``map_small`` (below 32 x 32 pixels), ``map_medium``, ``map_large`` (above 96 x 96), ``recall_100``; those of
            which there is no object are left out.
        of_categories: mAP and AP50 of each category that has objects, by its place.
    """

    figures: dict[str, float]
    of_categories: dict[int, tuple[float, float]]


def require_pycocotools() -> None:
    """Refuse to measure without pycocotools, before anything takes long.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise UserError("average precision is pycocotools': pip install 'coterie[detect]'") from error


def average_precision(
    truth: Sequence[BoxedImage], found: Sequence[Detections], categories: int, *, masks: bool = False
) -> AveragePrecision:
    """Compare detections with the boxes of the same images.

    Args:
        truth: boxes of each image.
        found: detections of each, in the same order; labels beyond ``categories`` count as no label of the truth.
        categories: how many there are.
        masks: compare masks, which all have, in place of boxes.

    Raises:
        UserError: pycocotools is not installed.
    """
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        given = COCO()
        given.dataset = _truth(truth, categories, masks=masks)
        given.createIndex()
        results = _results(found, masks=masks)
        answers = given.loadRes(results) if results else _nothing(given)
        evaluation = COCOeval(given, answers, "segm" if masks else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: 100 * float(evaluation.stats[place]) for name, place in _FIGURES.items()}
    precision = evaluation.eval["precision"][
        :, :, :, 0, -1
    ]  # thresholds, recalls, categories; all areas, 100 detections
    each = {place: precision[:, :, place] for place in range(categories) if (precision[:, :, place] > -1).any()}
    of_categories = {place: (_mean(values), _mean(values[:1])) for place, values in each.items()}
    return AveragePrecision({name: value for name, value in figures.items() if value >= 0}, of_categories)


def _truth(images: Sequence[BoxedImage], categories: int, *, masks: bool) -> Mapping[str, Any]:
    annotations: list[dict[str, Any]] = []
    for place, image in enumerate(images):
        rows = zip(image.boxes, image.labels, image.ignored, image.areas, strict=True)
        for row, (edges, label, ignored, area) in enumerate(rows):
            mask = image.masks[row] if masks else None
            shape = {"segmentation": packed(mask, image.width, image.height) if mask else []} if masks else {}
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean that it was not found
                    "image_id": place,
                    "category_id": int(label),
                    "bbox": coco_box(edges),
                    "area": float(area),
                    "iscrowd": int(ignored),
                    **shape,
                }
            )
    kinds = [{"id": place} for place in range(categories)]
    sizes = [{"id": place, "width": each.width, "height": each.height} for place, each in enumerate(images)]
    return {"images": sizes, "annotations": annotations, "categories": kinds}


def _results(found: Sequence[Detections], *, masks: bool) -> list[dict[str, Any]]:
    """Without boxes where masks are compared: sizes are those of the masks then."""
    if masks:
        return [
            {"image_id": place, "category_id": int(label), "segmentation": mask, "score": float(score)}
            for place, each in enumerate(found)
            for mask, label, score in zip(each.masks, each.labels, each.scores, strict=True)
        ]
    return [
        {"image_id": place, "category_id": int(label), "bbox": coco_box(edges), "score": float(score)}
        for place, each in enumerate(found)
        for edges, label, score in zip(each.boxes, each.labels, each.scores, strict=True)
    ]


def coco_box(edges: np.ndarray) -> list[float]:
    """Left, top, width and height of a box, from its edges."""
    left, top, right, bottom = map(float, edges)
    return [left, top, right - left, bottom - top]


def _nothing(given: Any) -> Any:
    """The answers of a detector that finds nothing: pycocotools does not load an empty list."""
    empty = type(given)()
    empty.dataset = {**given.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _mean(values: np.ndarray) -> float:
    """The mean of what was measured, in percent."""
    known = values[values > -1]
    return 100 * float(known.mean()) if len(known) else math.nan
