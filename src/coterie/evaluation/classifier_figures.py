"""What is known of a classifier once it is trained or tested: plain data for the terminal, its folder and its page."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from coterie.evaluation.classification import Answers, ClassFigures, Share, class_figures
from coterie.evaluation.results import ProbeResults
from coterie.formatting import end_of
from coterie.table import ShownInTables, TextTable

SHOWN_CLASSES = 30
"""Rows of the table of classes in a terminal, at most: those that are found least."""


@dataclass(frozen=True)
class UnknownFound:
    """A class that was left out of training: how many of its images are below the confidence that most known ones reach."""

    name: str
    found: Share


@dataclass(frozen=True)
class ClassifierFigures(ShownInTables):
    """Figures of a classifier on images that it was not trained on.

    Attributes:
        title: which images, and how.
        classes: their names.
        answers: calibrated, for the images at ``positions``.
        positions: of these images in their source.
        threshold: confidence below which an image is unknown; None: none is.
        uncalibrated: the calibration error without the temperature; None: not measured.
        unknown: of each class that was left out of training.
        unlabeled: positions of the images without a label.
        guesses: probabilities of each of them.
        remarks: sentences for people.
        folder: where the classifier is.
    """

    title: str
    classes: tuple[str, ...]
    answers: Answers
    positions: Int[np.ndarray, " n"]
    threshold: float | None = None
    uncalibrated: float | None = None
    unknown: tuple[UnknownFound, ...] = ()
    unlabeled: Int[np.ndarray, " m"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    guesses: Float[np.ndarray, "m c"] | None = None
    remarks: tuple[str, ...] = ()
    folder: str = ""

    @property
    def headline(self) -> str:
        """How good it is, in one sentence."""
        if not len(self.positions):
            return "no class has an image to spare: nothing could be tested"
        what = "one of the labels is right" if self.answers.multi_label else "right"
        return f"{self.answers.accuracy()} {what}, of {len(self.positions):,} images {self.title}"

    @property
    def mean_per_class(self) -> float:
        """The mean over the classes of the share of their images that is found, in percent."""
        values = [each.recall.value for each in self.of_classes() if each.recall.count]
        return sum(values) / max(1, len(values))

    def of_classes(self) -> list[ClassFigures]:
        """The figures of each class."""
        return class_figures(self.answers, self.classes)

    def sentences(self) -> list[str]:
        """What there is to say beside the headline."""
        lines = []
        if len(self.positions):
            lines.append(f"mean over the classes: {self.mean_per_class:.1f} %")
            before = "" if self.uncalibrated is None else f" ({self.uncalibrated:.3f} before temperature scaling)"
            alike = "" if self.answers.weights is None else ", each class counted alike"
            lines.append(f"calibration error{alike}: {self.answers.calibration_error():.3f}{before}")
        if self.unknown:
            shares = [each.found.value for each in self.unknown]
            lines.append(
                f"unknown: below a confidence of {self.threshold or 0:.2f}, which 95 % of known images reach; of a class that "
                f"is left out of training, {sum(shares) / len(shares):.0f} % of the images are found on average"
            )
        return [*lines, *self.remarks]

    def tables(self) -> Sequence[TextTable | str]:
        """The headline, the classes and the rest."""
        parts: list[TextTable | str] = [self.headline]
        if len(self.positions):
            rows = [each for each in self.of_classes() if each.recall.count]
            shown = rows
            if len(rows) > SHOWN_CLASSES:
                shown = sorted(rows, key=lambda each: each.recall.value)[:SHOWN_CLASSES]
                parts.append(f"the {SHOWN_CLASSES} of {len(rows)} classes that are found least:")
            cells = tuple(
                (
                    end_of(each.name, 40),
                    str(each.recall.count),
                    str(each.recall),
                    str(each.precision),
                    each.confused or "",
                )
                for each in shown
            )
            header = ("class", "images", "found, %", "right of its answers, %", "most often taken for")
            parts += ["", TextTable(header, cells, "<>>><"), ""]
        return [*parts, *self.sentences()]

    def facts(self) -> dict[str, str]:
        """The figures in a few words, for the classifier's file and a model card."""
        if not len(self.positions):
            return {}
        found = {
            "accuracy": f"{self.answers.accuracy()} of {len(self.positions)} images {self.title}",
            "mean_per_class": f"{self.mean_per_class:.1f} %",
            "calibration_error": f"{self.answers.calibration_error():.4f}",
        }
        if self.uncalibrated is not None:
            found["calibration_error_before"] = f"{self.uncalibrated:.4f}"
        return found


class ClassifierResults(ProbeResults):
    """``{"classifier": {metric: value}}`` of a classifier that was tested, which prints as :class:`ClassifierFigures` do.

    Attributes:
        figures: everything that is known.
    """

    def __init__(self, figures: ClassifierFigures) -> None:
        """Hold figures."""
        answers = figures.answers
        super().__init__(
            {
                "classifier": {
                    "top1": answers.accuracy().value,
                    "mean_per_class": figures.mean_per_class,
                    "calibration_error": answers.calibration_error(),
                }
            }
        )
        self.figures = figures

    def tables(self) -> Sequence[TextTable | str]:
        """As of the figures."""
        return self.figures.tables()
