"""Few labels out of many: stratified subsets that are the same every time and lie in each other."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from coterie.errors import UserError

_SUBSET_TAG = 0x737562736574  # "subset": keeps this stream apart from those of the views and of the order
_SLACK = 1e-9  # shares such as 0.1 are not exact in binary: 0.3 * 15 is 4.5, and is rounded up


@dataclass(frozen=True)
class FewLabels:
    """How many labels may be used: a share of those of each class, or so many a class.

    Attributes:
        share: above 0 and at most 1; None where ``per_class`` says it.
        per_class: images a class, at least 1; None where ``share`` says it.
    """

    share: float | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: neither or both are given, or a number is out of its range.
        """
        if (self.share is None) == (self.per_class is None):
            raise UserError('labels: give either a share, such as "10%", or a number of images a class, such as "5"')
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(
                f"labels: {100 * self.share:g}% is no share of the labels: give more than 0% and at most 100%"
            )
        if self.per_class is not None and self.per_class < 1:
            raise UserError(f"labels: {self.per_class} images a class is too few: give 1 or more")

    def __str__(self) -> str:
        """As a user writes it, and for people."""
        return f"{self.per_class} a class" if self.share is None else f"{100 * self.share:g}%"


@dataclass(frozen=True)
class LabeledSubset:
    """The images whose labels may be used.

    Attributes:
        positions: of these images, ascending.
        remarks: plain lines about classes that could not give what was asked.
    """

    positions: Int[np.ndarray, " n"]
    remarks: tuple[str, ...] = ()


def parse_labels(text: str) -> FewLabels:
    """Read what a user writes: ``"1%"`` and ``"10%"`` are shares, ``"5"`` is so many images a class.

    Raises:
        UserError: neither of these, or out of range.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        if percent and not rest.strip():
            return FewLabels(share=float(number) / 100)
        return FewLabels(per_class=int(text))
    except ValueError:
        raise UserError(
            f'labels: cannot read {text!r}; write a share, such as "1%" or "10%", or images a class, such as "5"'
        ) from None


def labeled_subset(
    labels: Int[np.ndarray, " n"], *, share: float | None = None, per_class: int | None = None, seed: int = 0
) -> LabeledSubset:
    """Choose a share of the labeled images of each class, or so many of each.

    Each class puts its images in an order that depends on nothing but the seed, the class and which images it has, and gives
    the first of them. So the same call gives the same images, and a smaller subset of the same seed lies in a larger one: 1%
    in 10%, 5 a class in 10 a class. A share of a class is rounded to the nearest number; every class gives at least one
    image. The stream is numpy's Philox with the key ``(seed ^ tag, class)``.

    Args:
        labels: the class of each image; below 0: none, never chosen.
        share: above 0, up to 1.
        per_class: images a class; a class with fewer gives all it has, and the remarks say so.
        seed: another number gives another subset.

    Raises:
        UserError: not exactly one of ``share`` and ``per_class``, out of range, or no labels.
    """
    asked = FewLabels(share, per_class)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise UserError("no image has a label: use class subfolders, or a parquet file with labels")
    wanted = np.array([_wanted(asked, count) for count in counts.tolist()])
    given = np.clip(wanted, 1, counts)
    by_class = np.split(np.argsort(labels, kind="stable")[-counts.sum() :], counts.cumsum()[:-1])
    chosen = [
        _class_order(positions, seed, number)[:some]
        for positions, number, some in zip(by_class, classes.tolist(), given.tolist(), strict=True)
    ]
    return LabeledSubset(np.sort(np.concatenate(chosen)), _remarks(wanted, counts, asked))


def _wanted(asked: FewLabels, count: int) -> int:
    """Images that a class of so many should give; it may be 0 of a small class, or more than there are."""
    return asked.per_class if asked.share is None else math.floor(asked.share * count + 0.5 + _SLACK)  # type: ignore[return-value]


def _class_order(positions: Int[np.ndarray, " n"], seed: int, number: int) -> Int[np.ndarray, " n"]:
    generator = np.random.Generator(np.random.Philox(key=[(seed ^ _SUBSET_TAG) & (2**64 - 1), number]))
    return generator.permutation(positions)


def _remarks(wanted: Int[np.ndarray, " c"], counts: Int[np.ndarray, " c"], asked: FewLabels) -> tuple[str, ...]:
    few, total = int((counts < wanted).sum()), len(counts)
    if few:
        return (f"{few} of {total} classes have fewer than {asked.per_class} labeled images and give all they have",)
    few = int((wanted < 1).sum())
    if few:
        return (f"{few} of {total} classes are so small that {asked} of their labels is none: each gives one image",)
    return ()
