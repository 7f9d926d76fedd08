"""How well found classes overlap with those of masks: IoU of each class, their mean, and the accuracy of pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from coterie.segmentation.classes import IGNORED

_DRAWS = 1000
"""Samples of the images from which the deviation is computed."""


@dataclass(frozen=True)
class Overlap:
    """Pixels of each class in each image.

    Attributes:
        found_and_true: that are of the class and were found to be.
        found: that were found to be of the class.
        true: that are of the class.
    """

    found_and_true: Int[np.ndarray, "n k"]
    found: Int[np.ndarray, "n k"]
    true: Int[np.ndarray, "n k"]

    @property
    def ious(self) -> Float[np.ndarray, " k"]:
        """Pixels that are of a class and were found to be, of those that are or were, in percent: Pascal VOC's measure.

        Pixels are counted over all images. NaN for a class that neither is there nor was found.
        """
        return _ious(self.found_and_true.sum(0), self.found.sum(0), self.true.sum(0))

    def figures(self) -> dict[str, float]:
        """``miou``, its deviation over samples of the images, pixel accuracy, and the mean accuracy of classes, in percent."""
        hit, true = self.found_and_true.sum(0), self.true.sum(0)
        present = true > 0
        return {
            "miou": float(np.nanmean(self.ious)),
            "miou_deviation": self._deviation(),
            "pixel_accuracy": float(100 * hit.sum() / true.sum()),
            "mean_accuracy": float(np.mean(100 * hit[present] / true[present])),
        }

    def _deviation(self) -> float:
        """The standard deviation of mIoU over samples of as many images, drawn with repetition (bootstrap)."""
        count = len(self.true)
        drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS)
        ious = _ious(*(drawn @ each for each in (self.found_and_true, self.found, self.true)))
        return float(np.nanmean(ious, axis=1).std(ddof=1))


def overlap(pairs: Sequence[tuple[UInt8[np.ndarray, "_ _"], UInt8[np.ndarray, "_ _"]]], classes: int) -> Overlap:
    """Count the pixels of images.

    Args:
        pairs: of each image the classes that were found and those of its mask; pixels that this ignores do not count.
        classes: how many there are.
    """
    rows = [pixel_counts(found, true, classes) for found, true in pairs]
    return Overlap(*(np.stack(each) for each in zip(*rows, strict=True)))


def pixel_counts(
    found: UInt8[np.ndarray, "_ _"], true: UInt8[np.ndarray, "_ _"], classes: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """The pixels of one image: found and true, found, and true, of each class."""
    known = true != IGNORED
    found, true = found[known], true[known]
    hit = np.bincount(true[found == true], minlength=classes)
    return hit, np.bincount(found, minlength=classes), np.bincount(true, minlength=classes)


def _ious(hit: np.ndarray, found: np.ndarray, true: np.ndarray) -> Float[np.ndarray, "..."]:
    union = found + true - hit
    return np.where(union > 0, 100 * hit / np.maximum(union, 1), np.nan)
