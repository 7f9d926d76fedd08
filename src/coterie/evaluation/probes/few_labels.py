"""Stratified subsets of labels: reproducible, and nested in each other."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from coterie.errors import UserError

_SUBSET_TAG = 0x737562736574  # "subset": keeps this random stream apart from those of the views and of the data order
_SLACK = 1e-9  # shares such as 0.1 are inexact in binary: 0.3 * 15 is 4.5, and must be rounded up


@dataclass(frozen=True)
class FewLabels:
    """How many labels may be used: a share of those of each class, or a number per class.

    Attributes:
        share: above 0 and at most 1; None if ``per_class`` is given.
        per_class: images per class, at least 1; None if ``share`` is given.
    """

    share: float | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: neither or both are given, or a number is out of range.
        """
        if (self.share is None) == (self.per_class is None):
            raise UserError("give either --label-fraction, such as 10%, or --labels-per-class, such as 5")
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"--label-fraction is {100 * self.share:g}%: give more than 0% and at most 100%")
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"--labels-per-class is {self.per_class}: give 1 or more")

    def asked(self) -> dict[str, str | int]:
        """The option and its value that ask for this."""
        if self.share is None:
            return {"labels_per_class": self.per_class or 0}
        return {"label_fraction": str(self)}

    def __str__(self) -> str:
        """As a user writes it, and for people."""
        return f"{self.per_class} per class" if self.share is None else f"{100 * self.share:g}%"


TENTH = FewLabels(share=0.1)
"""What is used where the user asks for nothing else."""


@dataclass(frozen=True)
class LabeledSubset:
    """The images whose labels may be used.

    Attributes:
        positions: of these images, ascending.
        remarks: lines about classes that have too few images.
    """

    positions: Int[np.ndarray, " n"]
    remarks: tuple[str, ...] = ()


def few_labels(fraction: str | float | None = None, per_class: int | None = None) -> FewLabels:
    """How many labels a user wants.

    Args:
        fraction: a share of the labels of each class: ``"1%"``, ``"0.01"`` or ``0.01``; None: 10%, without ``per_class``.
        per_class: labels per class.

    Raises:
        UserError: both are given, or one cannot be read or is out of range.
    """
    if fraction is not None and per_class is not None:
        raise UserError("--label-fraction and --labels-per-class say the same thing in two ways: give one of them")
    if per_class is not None:
        return FewLabels(per_class=per_class)
    return TENTH if fraction is None else FewLabels(share=_share(fraction))


def _share(fraction: str | float) -> float:
    """A share as a number: ``"1%"`` is 0.01, ``"0.01"`` and ``0.01`` too."""
    number, percent, rest = str(fraction).strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if math.isnan(share) or rest.strip():
        raise UserError(f"--label-fraction is {fraction}: write a share of the labels, such as 1% or 0.01")
    if share > 1 and not percent and share == int(share):
        raise UserError(
            f"--label-fraction is {fraction}: write {number}% for a share, or --labels-per-class {number} for a number"
        )
    return share


def labeled_subset(
    labels: Int[np.ndarray, " n"], *, share: float | None = None, per_class: int | None = None, seed: int = 0
) -> LabeledSubset:
    """Choose a share of the labeled images of each class, or a number of each.

    The images of each class are shuffled depending on nothing but the seed, the class and which images it has, and the first
    ones are taken. So the same call gives the same images, and a smaller subset is contained in a larger one of the same
    seed: 1% in 10%, 5 per class in 10 per class. A share of a class is rounded to the nearest number; every class has at
    least one image. The random stream is NumPy's Philox with the key ``(seed ^ tag, class)``.

    Args:
        labels: the class of each image; below 0: none, never chosen.
        share: above 0, up to 1.
        per_class: images per class; a class with fewer gives all of them, and the remarks say so.
        seed: for the choice.

    Raises:
        UserError: not exactly one of ``share`` and ``per_class`` is given, one is out of range, or there are no labels.
    """
    few = FewLabels(share, per_class)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise UserError("no image has a label: use class subfolders, or a parquet file with labels")
    wanted = np.array([_wanted(few, count) for count in counts.tolist()])
    given = np.clip(wanted, 1, counts)
    by_class = np.split(np.argsort(labels, kind="stable")[-counts.sum() :], counts.cumsum()[:-1])
    chosen = [
        _shuffled(positions, seed, number)[:count]
        for positions, number, count in zip(by_class, classes.tolist(), given.tolist(), strict=True)
    ]
    return LabeledSubset(np.sort(np.concatenate(chosen)), _remarks(wanted, counts, few))


def _wanted(few: FewLabels, count: int) -> int:
    """Images that a class of ``count`` images should give; may be 0 for a small class, or more than it has."""
    return few.per_class if few.share is None else math.floor(few.share * count + 0.5 + _SLACK)  # type: ignore[return-value]


def _shuffled(positions: Int[np.ndarray, " n"], seed: int, number: int) -> Int[np.ndarray, " n"]:
    generator = np.random.Generator(np.random.Philox(key=[(seed ^ _SUBSET_TAG) & (2**64 - 1), number]))
    return generator.permutation(positions)


def _remarks(wanted: Int[np.ndarray, " c"], counts: Int[np.ndarray, " c"], few: FewLabels) -> tuple[str, ...]:
    small, total = int((counts < wanted).sum()), len(counts)
    if small:
        return (f"{small} of {total} classes have fewer than {few.per_class} labeled images: all of them are used",)
    small = int((wanted < 1).sum())
    if small:
        return (
            f"{small} of {total} classes are so small that {few} of their labels is none: one image of each is used",
        )
    return ()
