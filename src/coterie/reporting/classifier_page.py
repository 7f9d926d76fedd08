"""The HTML page of a classifier: which classes it confuses, its worst mistakes, its calibration, and what to label next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage
from coterie.evaluation.classification import Answers
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.exporting.model import Model
from coterie.reporting import html
from coterie.reporting.chart import Chart, draw_chart
from coterie.reporting.gallery import Picture, Strip
from coterie.reporting.pictures import make_picture
from coterie.reporting.tables import Table

SIDES = (112, 80, 56)
"""Of a picture in pixels; the smaller ones are for pages that would become too large."""
MOST_CLASSES = 40
"""Of a confusion matrix that is shown."""
CELLS, OF_A_CELL, MISTAKES, TO_LABEL = 24, 6, 16, 16
"""Pictures: cells of the matrix, of each, the worst mistakes, and images to label next."""

Cells = tuple[tuple[tuple[int, int], list[int]], ...]
"""Cells of the confusion matrix, each with its images."""
Show = Callable[[int, str], Picture | None]
"""Makes the picture of an image at a position, with a caption; None if it cannot be decoded."""


@dataclass(frozen=True)
class PageSection:
    """Strips under a title."""

    title: str
    note: str
    strips: tuple[Strip, ...]


def write_classifier_page(
    path: Path, figures: ClassifierFigures, source: ImageSource, model: Model, about: Mapping[str, str]
) -> None:
    """Write the page as one HTML file that loads nothing, atomically.

    Args:
        path: of the file.
        figures: of the classifier.
        source: the images that the figures are of.
        model: says how images are cut.
        about: facts for the end of the page.

    Raises:
        UserError: the file cannot be written.
    """

    def show(position: int, caption: str) -> Picture | None:
        try:
            return make_picture(source, position, model.preprocessing, caption, name=source.name(position))
        except BadImage:
            return None

    cells = () if figures.answers.multi_label else _cells(figures)
    sections = _sections(figures, cells, show)
    several, classes = figures.answers.multi_label, len(figures.classes)
    shown = not several and classes <= MOST_CLASSES and len(figures.positions)
    html.write_page(
        path,
        "classifier.html",
        SIDES,
        title=f"{path.parent.name}: a classifier of {classes} classes",
        figures=figures,
        confusion=figures.answers.confusion().tolist() if shown else [],
        linked={cell for cell, _ in cells},
        sections=sections,
        calibration=_calibration(figures),
        tables=_tables(figures),
        about=about,
    )


def _sections(figures: ClassifierFigures, cells: Cells, show: Show) -> list[PageSection]:
    """The sections of pictures that have any."""
    found = [
        _section(
            "Confused images",
            "Label, and what they are taken for.",
            [
                (
                    f"{figures.classes[row]} taken for {figures.classes[column]}: {len(rows)}",
                    f"cell-{row}-{column}",
                    [
                        (int(figures.positions[each]), _percent(figures.answers.confidence[each]))
                        for each in rows[:OF_A_CELL]
                    ],
                )
                for (row, column), rows in cells
            ],
            show,
        ),
        _section(
            "Worst mistakes",
            "Wrong answers of the highest confidence: is the label right?",
            [("", "", _mistakes(figures))],
            show,
        ),
        _section("What to label next", _next_note(figures), [("", "", _next(figures))], show),
    ]
    return [each for each in found if each is not None]


def _section(
    title: str,
    note: str,
    strips: Sequence[tuple[str, str, Sequence[tuple[int, str]]]],
    show: Show,
) -> PageSection | None:
    """A section of the pictures that can be decoded; None if there are none."""
    found = [
        Strip(name, tuple(each for place in places if (each := show(*place)) is not None), anchor)
        for name, anchor, places in strips
    ]
    found = [strip for strip in found if strip.pictures]
    return PageSection(title, note, tuple(found)) if found else None


def _cells(figures: ClassifierFigures) -> Cells:
    """The cells of confused images with the most of them, and of each the images, the most confident first."""
    answers = figures.answers
    found = dict[tuple[int, int], list[int]]()
    for row in _wrong(answers):
        found.setdefault((int(answers.truth[row]), int(answers.predicted[row])), []).append(row)
    return tuple(sorted(found.items(), key=lambda each: -len(each[1]))[:CELLS])


def _mistakes(figures: ClassifierFigures) -> list[tuple[int, str]]:
    answers, found = figures.answers, list[tuple[int, str]]()
    for row in _wrong(answers)[:MISTAKES]:
        answer, sure = figures.classes[int(answers.predicted[row])], _percent(answers.confidence[row])
        found.append((int(figures.positions[row]), f"{answer} {sure}, labeled {_label(figures, row)}"))
    return found


def _wrong(answers: Answers) -> list[int]:
    """The rows of the wrong answers, the most confident first."""
    right = answers.right.tolist()
    return [row for row in answers.confidence.argsort(descending=True).tolist() if not right[row]]


def _next(figures: ClassifierFigures) -> list[tuple[int, str]]:
    """The images without a label of which the two best classes are closest; else the held-out images of least confidence."""
    if figures.guesses is not None and figures.guesses.shape[1] > 1:
        best = np.sort(figures.guesses, axis=1)
        order = np.argsort(best[:, -1] - best[:, -2], kind="stable")[:TO_LABEL]
        return [
            (int(figures.unlabeled[row]), f"{figures.classes[int(figures.guesses[row].argmax())]}?") for row in order
        ]
    answers = figures.answers
    return [
        (int(figures.positions[row]), f"{_label(figures, row)}, {_percent(answers.confidence[row])}")
        for row in answers.confidence.argsort().tolist()[:TO_LABEL]
    ]


def _next_note(figures: ClassifierFigures) -> str:
    if figures.guesses is not None:
        return "Images without a label between whose two best classes the classifier can decide least."
    return "All images have a label: more images like these, of which it is least sure, would help most."


def _label(figures: ClassifierFigures, row: int) -> str:
    truth = figures.answers.truth[row]
    if truth.ndim == 0:
        return figures.classes[int(truth)]
    return ", ".join(name for name, has in zip(figures.classes, truth.tolist(), strict=True) if has) or "none"


def _calibration(figures: ClassifierFigures) -> Chart | None:
    bins = figures.answers.reliability() if len(figures.positions) else []
    if not bins:
        return None
    curves = {
        "right": [(100 * each.confidence, 100 * each.right) for each in bins],
        "as confident": [(0.0, 0.0), (100.0, 100.0)],
    }
    note = "Confidence across, share of right answers upwards, in percent."
    return draw_chart("Calibration", note, curves, (0, 100), unit="%")


def _tables(figures: ClassifierFigures) -> list[Table]:
    rows = tuple(
        (each.name, each.recall.count, str(each.recall), str(each.precision), each.confused or "")
        for each in figures.of_classes()
        if each.recall.count
    )
    header = ("class", "images", "found", "right of its answers", "most often taken for")
    tables = [Table("Classes, with 95 % intervals", header, rows)] if rows else []
    if figures.unknown:
        found = tuple((each.name, str(each.found)) for each in figures.unknown)
        tables.append(Table("Found unknown when left out of training", ("class", "of its images"), found))
    return tables


def _percent(value: float | Tensor) -> str:
    return f"{100 * float(value):.0f} %"
