"""Tests a detector on other images with boxes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from coterie.config.hardware import Runtime
from coterie.detection.average_precision import AveragePrecision, average_precision, require_pycocotools
from coterie.detection.boxes import BoxedImage, BoxedSource
from coterie.detection.detect import Detections, detect
from coterie.detection.detector_file import Detector
from coterie.detection.masks import check_masks, has_masks
from coterie.errors import UserError
from coterie.evaluation.input_checks import warn_of_undecodable
from coterie.evaluation.results import ProbeResults
from coterie.formatting import end_of, first_few
from coterie.table import TextTable

SHOWN_CATEGORIES = 30
"""Rows of the table of categories in a terminal, at most: those that are found least."""


class DetectorResults(ProbeResults):
    """``{"detector": {"map": ..., "ap50": ..., "ap75": ...}}`` in percent, which prints as a headline and a table.

    Attributes:
        precision: the same, with the figures of each category.
        categories: name and number of boxes of each category.
        images: how many it was tested on.
    """

    def __init__(self, precision: AveragePrecision, categories: Sequence[tuple[str, int]], images: int) -> None:
        """Hold figures."""
        super().__init__({"detector": dict(precision.figures)})
        self.precision, self.categories, self.images = precision, tuple(categories), images

    def tables(self) -> Sequence[TextTable | str]:
        """The headline, and the categories that are found least."""
        figures = self.precision.figures
        names = {"map": "mAP", "ap50": "AP50", "ap75": "AP75"}
        names |= {f"mask_{key}": f"{name} of masks" for key, name in names.items()}
        headline = ", ".join(f"{name} {figures[key]:.1f}" for key, name in names.items() if key in figures)
        sizes = {"map_small": "small", "map_medium": "medium", "map_large": "large"}
        by_size = ", ".join(f"{name} {figures[key]:.1f}" for key, name in sizes.items() if key in figures)
        rows = sorted(self.precision.of_categories.items(), key=lambda each: each[1])[:SHOWN_CATEGORIES]
        cells = tuple(
            (end_of(name, 40), str(count), f"{mean:.1f}", f"{half:.1f}")
            for place, (mean, half) in rows
            for name, count in (self.categories[place],)
        )
        boxes = sum(count for _, count in self.categories)
        parts: list[TextTable | str] = [f"{headline}, of {boxes:,} boxes in {self.images:,} images", ""]
        parts += [TextTable(("category", "boxes", "mAP", "AP50"), cells, "<>>>"), ""]
        return [*parts, *([f"mAP by the size of objects: {by_size}"] if by_size else [])]


def evaluate_detector(detector: Detector, boxed: BoxedSource, runtime: Runtime) -> DetectorResults:
    """Compare what a detector finds with boxes.

    Categories are matched by name. Boxes of categories that the detector does not know count in no figure.

    Args:
        detector: on the device of ``runtime``.
        boxed: images and boxes.
        runtime: where and how to compute; its logger receives messages and progress.

    Raises:
        UserError: the detector knows none of the categories, no image can be decoded, or pycocotools is not installed.
    """
    require_pycocotools()
    logger, file = runtime.logger, boxed.file
    for line in detector.model.lines:
        logger.info(line)
    for remark in file.remarks:
        logger.warning(remark)
    known = _known_boxes(detector, boxed, logger.warning)
    if detector.settings.kind == "mask_rcnn" and has_masks(file.images):
        check_masks(file)
    found, truth, bad = list[Detections](), list[BoxedImage](), list[tuple[int, str]]()
    for image, each in zip(known, detect(detector, boxed.source, boxed.positions, runtime), strict=True):
        if isinstance(each, Detections) and each.size != (image.width, image.height):
            said = f"{image.width} x {image.height}"
            each = each.position, f"{each.size[0]} x {each.size[1]} pixels where its boxes are for {said}"
        if isinstance(each, Detections):
            found.append(each)
            truth.append(image)
        else:
            bad.append(each)
    warn_of_undecodable(bad, "images", boxed.source.name, logger)
    if not found:
        raise UserError(f"no image of {file.where} can be used")
    names = list(dict.fromkeys([*file.categories, *detector.categories]))
    places = np.array([names.index(name) for name in detector.categories])
    found = [replace(each, labels=places[each.labels]) for each in found]
    counts = np.bincount(
        np.concatenate([each.labels[~each.ignored] for each in truth]).astype(np.int64), minlength=len(names)
    )
    precision = average_precision(truth, found, len(names))
    if detector.settings.kind == "mask_rcnn":
        if has_masks(truth):
            figures = average_precision(truth, found, len(names), masks=True).figures
            precision.figures.update({f"mask_{name}": figures[name] for name in ("map", "ap50", "ap75")})
        else:
            logger.warning(
                f"{file.where}: not all of its objects have a segmentation: boxes are compared, and no masks"
            )
    return DetectorResults(precision, list(zip(names, counts.tolist(), strict=True)), len(found))


def _known_boxes(detector: Detector, boxed: BoxedSource, warn: Callable[[str], None]) -> list[BoxedImage]:
    """The boxes of the categories that a detector knows; the others are said."""
    file = boxed.file
    known = np.array([name in detector.categories for name in file.categories])
    if not known.any():
        raise UserError(
            f"{file.where} has no category that the detector knows: it knows {first_few(detector.categories, ', ')}; the file "
            f"has {first_few(file.categories, ', ')}"
        )
    strange = int(boxed.counts[~known].sum())
    if strange:
        names = [name for name, yes in zip(file.categories, known, strict=True) if not yes]
        warn(
            f"{file.where}: {strange:,} boxes are of categories that the detector does not know ({first_few(names, ', ')}), "
            "and count in no figure"
        )
    return [_chosen(each, known[each.labels]) for each in file.images]


def _chosen(image: BoxedImage, rows: np.ndarray) -> BoxedImage:
    parts = {name: getattr(image, name)[rows] for name in ("boxes", "labels", "ignored", "areas")}
    masks = tuple(mask for mask, yes in zip(image.masks, rows, strict=True) if yes) if image.masks else ()
    return replace(image, **parts, masks=masks)
