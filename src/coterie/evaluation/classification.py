"""How good the answers of a classifier are: accuracy with its interval, confusion of classes, calibration of probabilities."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BINS = 15
"""Of the calibration error: as Guo et al. 2017."""
CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Share:
    """A share of images, with an interval that holds the true share 95 times in 100.

    Attributes:
        right: images that count.
        count: all images.
    """

    right: int
    count: int

    @property
    def value(self) -> float:
        """The share in percent; NaN of no images."""
        return 100 * self.right / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval in percent (Wilson 1927), which is right for few images and shares near 0 and 1 too."""
        if not self.count:
            return 0.0, 100.0
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        share, more = self.right / self.count, z * z / self.count
        middle = (share + more / 2) / (1 + more)
        half = z / (1 + more) * math.sqrt(share * (1 - share) / self.count + more / (4 * self.count))
        return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)

    def __str__(self) -> str:
        """As in ``98.1 % (96.1 to 99.0)``."""
        low, high = self.interval
        return f"{self.value:.1f} % ({low:.1f} to {high:.1f})" if self.count else "–"


@dataclass(frozen=True)
class Answers:
    """What a classifier answered for images whose labels are known.

    Attributes:
        probabilities: of each image and class.
        truth: the class of each image; or, of images with several labels, whether it has each class.
        weights: how much each image counts in the calibration; None: all alike.
    """

    probabilities: Float[Tensor, "n c"]
    truth: Int[Tensor, " n"] | Bool[Tensor, "n c"]
    weights: Float[Tensor, " n"] | None = None

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.truth.ndim == 2

    @property
    def confidence(self) -> Float[Tensor, " n"]:
        """The largest probability of each image."""
        return self.probabilities.amax(dim=1)

    @property
    def predicted(self) -> Int[Tensor, " n"]:
        """The most probable class of each image."""
        return self.probabilities.argmax(dim=1)

    @property
    def right(self) -> Bool[Tensor, " n"]:
        """Whether the most probable class is right: of several labels, whether it is one of them."""
        if self.truth.ndim == 1:
            return self.predicted == self.truth
        return self.truth.gather(1, self.predicted[:, None])[:, 0]

    def accuracy(self) -> Share:
        """The share of images whose most probable class is right."""
        return Share(int(self.right.sum()), len(self.truth))

    def confusion(self) -> Int[Tensor, "c c"]:
        """How many images of each class (row) got each class as answer (column); of one label per image."""
        classes = self.probabilities.shape[1]
        return (self.truth * classes + self.predicted).bincount(minlength=classes**2).view(classes, classes)

    def calibration_error(self) -> float:
        """The expected calibration error: how far confidence and accuracy are apart, on average (Guo et al. 2017, eq. 3).

        Of images with several labels, over all pairs of image and class.
        """
        bins = self.reliability()
        total = sum(each.weight for each in bins)
        return sum(abs(each.confidence - each.right) * each.weight for each in bins) / total if bins else 0.0

    def reliability(self, bins: int = BINS) -> list["Reliability"]:
        """The accuracy of the answers of similar confidence, in bins of equal width that have answers."""
        confidence, right, weights = self._outcomes()
        place, found = (confidence * bins).long().clamp(0, bins - 1), []
        for number in range(bins):
            these = place == number
            if weight := float(weights[these].sum()):
                sure, share = (float((each[these] * weights[these]).sum()) / weight for each in (confidence, right))
                found.append(Reliability(sure, share, int(these.sum()), weight))
        return found

    def log_losses(self) -> Float[Tensor, " n"]:
        """The cross-entropy of each image, in nats; of several labels, summed over the classes."""
        if self.truth.ndim == 1:
            chance = self.probabilities.double().gather(1, self.truth[:, None])
        else:
            chance = torch.where(self.truth, self.probabilities, 1 - self.probabilities).double()
        return -chance.clamp(min=1e-12).log().sum(dim=1)

    def _outcomes(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, " m"]]:
        """Confidence, whether it was right, and how much that counts."""
        if self.truth.ndim == 1:
            weights = torch.ones(len(self.truth)) if self.weights is None else self.weights
            return self.confidence.double(), self.right.double(), weights.double()
        chances, truth = self.probabilities.flatten().double(), self.truth.flatten().double()
        return chances, truth, torch.ones_like(truth)


@dataclass(frozen=True)
class Reliability:
    """Answers of similar confidence: their mean confidence, the share that is right, how many they are, and their weight."""

    confidence: float
    right: float
    count: int
    weight: float


@dataclass(frozen=True)
class ClassFigures:
    """One class: how many of its images are found, and how many that are called so are of it.

    Attributes:
        name: of the class.
        recall: of its images, those that are called so.
        precision: of the images that are called so, those that are of it.
        confused: the class that its images are most often taken for; None: none is.
    """

    name: str
    recall: Share
    precision: Share
    confused: str | None = None


def equal_weights(truth: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Weights of images with which their classes count alike, 1 on average.

    Args:
        truth: the class of each image.
    """
    counts = truth.bincount()
    return len(truth) / (int((counts > 0).sum()) * counts[truth].double())


def class_figures(answers: Answers, classes: tuple[str, ...]) -> list[ClassFigures]:
    """The figures of each class; of several labels, a class is given where its probability is at least one half.

    Args:
        answers: of the classifier.
        classes: names of the classes.
    """
    if answers.truth.ndim == 2:
        given = answers.probabilities >= 0.5
        hits, called, images = (given & answers.truth).sum(0), given.sum(0), answers.truth.sum(0)
        rows = zip(classes, hits.tolist(), images.tolist(), called.tolist(), strict=True)
        return [ClassFigures(name, Share(hit, of), Share(hit, called)) for name, hit, of, called in rows]
    table, found = answers.confusion(), []
    others = table.masked_fill(torch.eye(len(classes), dtype=torch.bool), 0)
    for number, name in enumerate(classes):
        hit, worst = int(table[number, number]), int(others[number].argmax())
        confused = classes[worst] if others[number, worst] else None
        recall, precision = Share(hit, int(table[number].sum())), Share(hit, int(table[:, number].sum()))
        found.append(ClassFigures(name, recall, precision, confused))
    return found
