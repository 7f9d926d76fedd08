"""Tests a segmenter on other images with masks."""

from collections.abc import Callable, Sequence

import numpy as np

from coterie.config.hardware import Runtime
from coterie.errors import UserError
from coterie.evaluation.input_checks import warn_of_undecodable
from coterie.evaluation.results import ProbeResults
from coterie.formatting import end_of, first_few
from coterie.segmentation.classes import IGNORED
from coterie.segmentation.masks import MaskedSource
from coterie.segmentation.overlap import Overlap, pixel_counts
from coterie.segmentation.segment import Segmented, segment
from coterie.segmentation.segmenter_file import Segmenter
from coterie.table import TextTable

SHOWN_CLASSES = 40
"""Rows of the table of classes in a terminal, at most: those that are found least."""


class SegmenterResults(ProbeResults):
    """``{"segmenter": {"miou": ...}, "iou": {class: ...}}`` in percent, which prints as a headline and a table.

    Attributes:
        overlap: the pixels of each class in each image.
        names: of the classes.
    """

    def __init__(self, overlap: Overlap, names: Sequence[str]) -> None:
        """Hold figures."""
        ious = {name: float(value) for name, value in zip(names, overlap.ious, strict=True) if not np.isnan(value)}
        super().__init__({"segmenter": overlap.figures(), "iou": ious})
        self.overlap, self.names = overlap, tuple(names)

    def tables(self) -> Sequence[TextTable | str]:
        """The headline, and the classes that are found least."""
        figures, true = self["segmenter"], self.overlap.true.sum(0)
        shares = dict(zip(self.names, 100 * true / true.sum(), strict=True))
        rows = sorted(self["iou"].items(), key=lambda each: each[1])[:SHOWN_CLASSES]
        cells = tuple((end_of(name, 40), f"{shares[name]:.1f}", f"{iou:.1f}") for name, iou in rows)
        headline = (
            f"mIoU {figures['miou']:.1f} ± {figures['miou_deviation']:.1f}, pixel accuracy {figures['pixel_accuracy']:.1f}, "
            f"of {len(self['iou'])} classes in {len(self.overlap.true):,} images"
        )
        return [headline, "", TextTable(("class", "% of pixels", "IoU"), cells, "<>>")]


def evaluate_segmenter(segmenter: Segmenter, masked: MaskedSource, runtime: Runtime) -> SegmenterResults:
    """Compare what a segmenter finds with masks.

    Classes are matched by name. Pixels of classes that the segmenter does not know count in no figure.

    Args:
        segmenter: on the device of ``runtime``.
        masked: images and masks.
        runtime: where and how to compute; its logger receives messages and progress.

    Raises:
        UserError: the segmenter knows none of the classes, or no image can be used.
    """
    logger, names = runtime.logger, segmenter.classes.names
    logger.info(f"{segmenter.model.name}: a {segmenter.name}")
    for remark in masked.remarks:
        logger.warning(remark)
    table = _known_labels(segmenter, masked, logger.warning)
    rows, bad = list[tuple[np.ndarray, ...]](), list[tuple[int, str]]()
    found = segment(segmenter, masked.source, masked.positions, runtime)
    for place, each in enumerate(found):
        if isinstance(each, Segmented):
            true = table[masked.labels(place)]
            if true.shape == each.labels.shape:
                rows.append(pixel_counts(each.labels, true, len(names)))
                continue
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (each.labels.shape, true.shape)]
            each = each.position, f"{sizes[0]} pixels where its mask has {sizes[1]}"
        bad.append(each)
    warn_of_undecodable(bad, "images", masked.source.name, logger)
    if not rows or not sum(row[2].sum() for row in rows):
        raise UserError(f"no image of {masked.where} can be used: {bad[0][1] if bad else 'all pixels are ignored'}")
    return SegmenterResults(Overlap(*(np.stack(each) for each in zip(*rows, strict=True))), names)


def _known_labels(segmenter: Segmenter, masked: MaskedSource, warn: Callable[[str], None]) -> np.ndarray:
    """The segmenter's label of each label of the masks; those that it does not know are said, and ignored."""
    known, here = segmenter.classes.names, masked.classes.names
    if not set(known) & set(here):
        raise UserError(
            f"{masked.where} has no class that the segmenter knows: it knows {first_few(known, ', ')}; the masks have "
            f"{first_few(here, ', ')}"
        )
    table = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    for label, name in enumerate(here):
        table[label] = known.index(name) if name in known else IGNORED
    strange = {name: int(count) for name, count in zip(here, masked.counts, strict=True) if count and name not in known}
    if strange:
        warn(
            f"{masked.where}: {sum(strange.values()):,} pixels are of classes that the segmenter does not know "
            f"({first_few(list(strange), ', ')}), and count in no figure"
        )
    return table
