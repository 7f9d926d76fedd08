"""From logits of held-out images to probabilities that hold, and to the confidence below which an image is unknown."""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

KEPT = 0.95
"""Share of the images of known classes that the threshold of ``unknown`` keeps."""
HOTTEST = 100.0
"""Temperatures are between this and its inverse."""
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 48  # of the golden section: each leaves 0.618 of the interval


def fit_temperature(logits: Float[Tensor, "n c"], truth: Int[Tensor, " n"] | Bool[Tensor, "n c"]) -> float:
    """Find the temperature with the smallest log loss (Guo et al. 2017, section 4.2), by the golden section.

    Targets are smoothed as in Platt 1999, section 2.2, to ``(n + 1) / (n + 2)``: if all answers are right, no confidence would
    be too high otherwise.

    Args:
        logits: of images that the classifier was not trained on.
        truth: the class of each; of images with several labels, whether it has each class.

    Returns:
        The temperature; 1 without images.
    """
    if not len(logits):
        return 1.0
    scores, smoothing = logits.double(), 1 / (len(logits) + 2)

    def loss(log_temperature: float) -> float:
        scaled = scores / math.exp(log_temperature)
        if truth.ndim == 1:
            smoothed = smoothing * scores.shape[1] / max(1, scores.shape[1] - 1)
            return float(F.cross_entropy(scaled, truth, label_smoothing=min(1.0, smoothed)))
        targets = truth.double() * (1 - 2 * smoothing) + smoothing
        return float(F.binary_cross_entropy_with_logits(scaled, targets))

    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_left, of_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - _GOLDEN * (high - low)
            of_left = loss(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + _GOLDEN * (high - low)
            of_right = loss(right)
    return math.exp((low + high) / 2)


def unknown_threshold(confidence: Float[Tensor, " n"], kept: float = KEPT) -> float:
    """The confidence that a share of the images of known classes reaches.

    Args:
        confidence: of images of known classes that the classifier was not trained on; at least one.
        kept: the share.
    """
    ranked = confidence.double().sort(descending=True).values
    return float(ranked[max(0, math.ceil(kept * len(ranked)) - 1)])
