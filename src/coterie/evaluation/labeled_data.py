"""Labeled sources, made to agree about what their labels mean."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, Subset, labels
from coterie.errors import UserError


@dataclass(frozen=True)
class Labeled:
    """Images to learn from and images to be asked, every one labeled, with one numbering of classes.

    ``remarks`` are lines about images that were left out.
    """

    train: ImageSource
    test: ImageSource
    remarks: tuple[str, ...] = ()


def labeled_pair(train: tuple[str, ...], test: tuple[str, ...]) -> Labeled:
    """Open both; without ``test``, every fifth image of ``train`` is asked and the others are learned from.

    Raises:
        UserError: a source without labels, or two that do not share a class.
    """
    remarks: list[str] = []
    known, positions, numbers = _labels(train, "TRAIN", remarks)
    if not test:
        asked = np.arange(len(positions)) % 5 == 4
        learned, held = (Subset(known, positions[rows], numbers[rows], known.classes) for rows in (~asked, asked))
        if not len(held):
            raise UserError("TRAIN has fewer than 5 labeled images: name some more, or --test")
        return Labeled(learned, held, tuple(remarks))
    asked_source, asked_positions, asked_labels = _labels(test, "TEST", remarks)
    asked_labels = _renumbered(asked_labels, asked_source.classes, known.classes)
    seen = np.isin(asked_labels, numbers)
    if not seen.any():
        raise UserError("TEST shares no class with TRAIN: check that both name their classes alike")
    if not seen.all():
        remarks.append(f"{(~seen).sum()} images of TEST are left out: TRAIN has no image of their class")
    return Labeled(
        Subset(known, positions, numbers, known.classes),
        Subset(asked_source, asked_positions[seen], asked_labels[seen], known.classes),
        tuple(remarks),
    )


def _labels(specs: tuple[str, ...], what: str, remarks: list[str]) -> tuple[ImageSource, np.ndarray, np.ndarray]:
    source = open_source(*specs)
    found = labels(source)
    positions = np.flatnonzero(found >= 0)
    if not len(positions):
        raise UserError(
            f"{what} ({' '.join(specs)}) has no labels: use class subfolders, or a parquet file with labels"
        )
    if len(positions) < len(found):
        remarks.append(f"{len(found) - len(positions)} images of {what} have no label and are left out")
    return source, positions, found[positions]


def _renumbered(labels: np.ndarray, names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """Labels that count into ``names``, counting into ``wanted``; -1 where the class is not known there."""
    if names == wanted or not names or not wanted:
        return labels
    place = {name: number for number, name in enumerate(wanted)}
    table: Int[np.ndarray, " c"] = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    renumbered: Int[np.ndarray, " n"] = table[labels]
    return renumbered
