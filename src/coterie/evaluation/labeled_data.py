"""Labeled images for training and for testing a probe, with one numbering of their classes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from coterie.data.sources.source import ImageSource, Subset, label_matrix, label_notes, labels, random_positions
from coterie.errors import UserError
from coterie.evaluation.class_checks import check_classes, describe_classes, present, similar
from coterie.formatting import first_few
from coterie.logger import Logger


@dataclass(frozen=True)
class LabeledPair:
    """Labeled images to train a probe on and to test it on; labels of both mean the same classes.

    Attributes:
        train: images to train on.
        test: images to test on.
        remarks: lines about images that were left out, and about choices and names that may be wrong.
        classes: lines that say which classes were found.
    """

    train: ImageSource
    test: ImageSource
    remarks: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def tell(self, logger: Logger) -> None:
        """Say which classes were found, and every remark."""
        for line in self.classes:
            logger.info(line)
        for line in self.remarks:
            logger.warning(line)


def labeled_pair(train: ImageSource, test: ImageSource | None = None) -> LabeledPair:
    """Match the classes of training and test images by name, and leave out images without a label.

    Args:
        train: training images.
        test: test images; None: a random fifth of the labeled images of ``train`` is for testing, the others
            are for training (:func:`held_out_fifth`).

    Raises:
        UserError: a source has no labels, its classes are none, there is one class only, or the two share no class.
    """
    remarks: list[str] = []
    positions, numbers = _labeled(train, "TRAIN", remarks)
    found = describe_classes(train, numbers, "TRAIN")
    if test is None:
        held_out = held_out_fifth(numbers)
        training, held = (
            Subset(train, positions[rows], numbers[rows], train.classes) for rows in (~held_out, held_out)
        )
        return LabeledPair(training, held, tuple(dict.fromkeys(remarks)), (found,))
    test_positions, test_numbers = _labeled(test, "TEST", remarks)
    lines = (found, describe_classes(test, test_numbers, "TEST"))
    ours, theirs = present(train.classes, numbers), present(test.classes, test_numbers)
    test_numbers = _renumbered(test_numbers, test.classes, train.classes)
    known = np.isin(test_numbers, numbers)
    if not known.any():
        raise UserError(
            f"TEST shares no class with TRAIN: check that both name their classes alike (TEST: {first_few(theirs, ', ')}; "
            f"TRAIN: {first_few(ours, ', ')})"
        )
    if not known.all():
        unknown = [name for name in theirs if name not in ours]
        alike = [f"{name} is {other} in TRAIN" for name, other in similar(unknown, ours)]
        perhaps = f"; perhaps {first_few(alike, ', ')}" if alike else ""
        remarks.append(
            f"{(~known).sum()} images of TEST are left out: TRAIN has no image of their class "
            f"({first_few(unknown, ', ')}{perhaps})"
        )
    return LabeledPair(
        Subset(train, positions, numbers, train.classes),
        Subset(test, test_positions[known], test_numbers[known], train.classes),
        tuple(dict.fromkeys(remarks)),
        lines,
    )


def held_out_fifth(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Choose a fifth of the images for testing at random, always the same ones; every class keeps an image for training.

    Args:
        labels: the class of each image, from 0.

    Returns:
        Whether each image is for testing.

    Raises:
        UserError: there are fewer than 5 images, or no class has an image to spare.
    """
    if len(labels) < 5:
        raise UserError("TRAIN has fewer than 5 labeled images: name more of them, or test images with --test")
    held: Bool[np.ndarray, " n"] = np.zeros(len(labels), dtype=bool)
    held[random_positions(len(labels) // 5, len(labels))] = True
    classes, first = np.unique(labels, return_index=True)
    held[first[~np.isin(classes, labels[~held])]] = False  # classes that are for testing only
    if not held.any():
        raise UserError("no class of TRAIN has an image to spare for testing: name test images with --test")
    return held


def no_labels(source: ImageSource, what: str) -> UserError:
    """The error for a source without labels: what is known of why, and what to do."""
    absent = label_notes(source).absent
    return UserError(
        f"{what} has no labels{f' ({absent})' if absent else ''}: use class subfolders, a column or --labels FILE"
    )


def _labeled(source: ImageSource, what: str, remarks: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the labeled images of a source, and their labels."""
    found = labels(source)
    positions = np.flatnonzero(found >= 0)
    if not len(positions):
        if label_matrix(source).known.any():
            raise UserError(f"{what} has several labels per image, which only --probes svm and low_shot take")
        raise no_labels(source, what)
    remarks.extend(label_notes(source).remarks)
    if len(positions) < len(found):
        remarks.append(f"{len(found) - len(positions)} images of {what} have no label and are left out")
    remarks.extend(check_classes(source, found[positions], what))
    return positions, found[positions]


def _renumbered(labels: np.ndarray, names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """Turn labels that index ``names`` into labels that index ``wanted``; -1 where the class is unknown there."""
    if names == wanted or not names or not wanted:
        return labels
    place = {name: number for number, name in enumerate(wanted)}
    table: Int[np.ndarray, " c"] = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    renumbered: Int[np.ndarray, " n"] = table[labels]
    return renumbered
