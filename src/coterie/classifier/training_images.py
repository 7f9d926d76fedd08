"""The labeled images that a classifier is trained on: which classes there are, which images have no label, which are copies."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from coterie.data.sources.content import content_key
from coterie.data.sources.source import ImageSource, Subset, label_matrix, label_notes, labels
from coterie.errors import BadImage, UserError
from coterie.evaluation.class_checks import check_classes, describe_classes
from coterie.evaluation.labeled_data import no_labels
from coterie.formatting import first_few
from coterie.logger import Logger
from coterie.signals import check_interrupted

Truth = Int[Tensor, " n"] | Bool[Tensor, "n c"]
"""The class of each image; of images with several labels, whether it has each class."""


@dataclass(frozen=True)
class TrainingImages:
    """Labeled images, and those without a label beside them.

    Attributes:
        source: all images as they were given.
        positions: of the labeled ones.
        truth: of each of these.
        classes: names of the classes, all of which have an image.
        unlabeled: positions of the images without a label.
        lines: what was found.
        remarks: what may be wrong.
    """

    source: ImageSource
    positions: Int[np.ndarray, " n"]
    truth: Truth
    classes: tuple[str, ...]
    unlabeled: Int[np.ndarray, " m"]
    lines: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.truth.ndim == 2

    @property
    def labeled(self) -> Subset:
        """The labeled images."""
        return Subset(self.source, self.positions)

    @property
    def counts(self) -> list[int]:
        """The number of images of each class."""
        if self.truth.ndim == 2:
            return [int(each) for each in self.truth.sum(dim=0)]
        return self.truth.bincount(minlength=len(self.classes)).tolist()

    @property
    def strata(self) -> Int[np.ndarray, " n"]:
        """One class of each image; of several, the rarest; of none, one more than there are."""
        if self.truth.ndim == 1:
            return self.truth.numpy()
        rarity = torch.where(self.truth, 1 / self.truth.sum(dim=0).clamp(min=1), 0)
        return torch.where(self.truth.any(dim=1), rarity.argmax(dim=1), len(self.classes)).numpy()


def training_images(source: ImageSource, what: str = "LABELED") -> TrainingImages:
    """Find the labels of images, of one kind or the other.

    Args:
        source: the images.
        what: what a message calls them.

    Raises:
        UserError: there are no labels, they are no classes, or there is one class only.
    """
    notes, numbers = label_notes(source), labels(source)
    if (numbers >= 0).any():
        remarks = [*notes.remarks, *check_classes(source, numbers, what)]
        line = describe_classes(source, numbers, what)
        known, truth = np.unique(numbers[numbers >= 0], return_inverse=True)
        classes = tuple(source.classes[number] for number in known.tolist())
        positions = np.flatnonzero(numbers >= 0)
        found: Truth = torch.from_numpy(truth.astype(np.int64))
    else:
        matrix = label_matrix(source)
        if not matrix.known.any():
            raise no_labels(source, what)
        positions, used = np.flatnonzero(matrix.known), matrix.rows[matrix.known].any(axis=0)
        classes = tuple(name for name, has in zip(matrix.classes, used.tolist(), strict=True) if has)
        if len(classes) < 2 and what == "LABELED":
            raise UserError(
                f"{what} has one class only ({first_few(classes)}): a classifier needs images of two or more"
            )
        found, remarks = torch.from_numpy(matrix.rows[matrix.known][:, used]), list(notes.remarks)
        mean = float(found.sum(dim=1).double().mean())
        line = f"{what}: {len(positions):,} images of {len(classes)} classes, {mean:.1f} labels an image"
    unlabeled = np.setdiff1d(np.arange(len(source)), positions)
    images = TrainingImages(source, positions, found, classes, unlabeled, (line,))
    rare = [] if what != "LABELED" else [name for name, count in zip(classes, images.counts, strict=True) if count == 1]
    if rare:
        are = "class has" if len(rare) == 1 else "classes have"
        remarks.append(
            f"{len(rare)} {are} one image only ({first_few(rare, ', ')}): it is trained on, and no figure says how well"
        )
    if len(images.unlabeled):
        remarks.append(f"{len(images.unlabeled):,} of {len(source):,} images of {what} have no label")
    return replace(images, remarks=tuple(remarks))


def content_keys(images: ImageSource, logger: Logger) -> list[str]:
    """What identifies the content of each image; empty of those that cannot be read.

    Args:
        images: the images, each of which is read once.
        logger: receives progress.
    """
    found = []
    for position in logger.progress(range(len(images)), len(images), "looking for copies"):
        check_interrupted()
        try:
            found.append(content_key(images[position]))
        except BadImage:
            found.append("")
    return found


def copies(keys: list[str], truth: Truth) -> str | None:
    """A line about images that occur more than once; None if there are none.

    Args:
        keys: of the labeled images.
        truth: their classes.
    """
    several = {key for key, count in Counter(keys).items() if count > 1 and key}
    if not several:
        return None
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        if key in several:
            places.setdefault(key, []).append(place)
    more = sum(len(each) - 1 for each in places.values())
    different = sum(bool((truth[each] != truth[each[0]]).any()) for each in places.values())
    which = "1 labeled image is a copy of another" if more == 1 else f"{more} labeled images are copies of others"
    line = f"{which}: copies are held out together"
    return f"{line}; {different} of them have different labels" if different else line
