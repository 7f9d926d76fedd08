"""Multinomial logistic regression with an L2 penalty: exact, for several penalties at once, in chunks of bounded memory."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.data.sources.source import random_positions
from coterie.evaluation.probes.standardize import Standardizer
from coterie.grouping.chunks import chunk_slices
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

MAX_ITERATIONS = 200
TOLERANCE = 1e-4
PRECONDITIONER_ROWS = 16  # for each feature: that many rows determine the preconditioner well enough
HISTORY = 10  # pairs of (step, change of the gradient) that L-BFGS remembers
MAX_HALVINGS = 20  # of a step; if the loss has not decreased then, it is as low as the precision allows
SUFFICIENT_DECREASE = 1e-4  # share of the decrease that the slope promises (Armijo's rule)

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LinearClassifier:
    """Linear classifiers of the same features, one for each of several heads: ``scores = weights . row + bias``.

    Attributes:
        weights: of k classes, l heads and d features.
        bias: of k classes and l heads.
    """

    weights: Float[Tensor, "k l d"]
    bias: Float[Tensor, "k l"]

    def scores(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "k l n"]:
        """Compute the score (logit) of each class for each row, by each head."""
        products = self.weights.flatten(0, 1) @ rows.to(self.weights.dtype).T
        return products.view(*self.bias.shape, -1).add_(self.bias[:, :, None])

    def head(self, number: int) -> "LinearClassifier":
        """Take one of the heads alone."""
        return LinearClassifier(self.weights[:, number : number + 1], self.bias[:, number : number + 1])

    def fold_standardizer(self, standardizer: Standardizer) -> "LinearClassifier":
        """Make the classifier that scores raw rows as this one scores standardized rows."""
        weights = self.weights * standardizer.scale
        return LinearClassifier(weights, self.bias - weights @ standardizer.mean)


@dataclass(frozen=True)
class Preconditioner:
    """Eigenvalues and eigenvectors of the mean of ``row row^T``: how far the rows extend in which direction.

    Attributes:
        values: eigenvalues.
        vectors: eigenvectors, one per column.
    """

    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d d"]

    @classmethod
    @torch.no_grad()
    def fit(cls, rows: Float[Tensor, "n d"], standardizer: Standardizer) -> "Preconditioner":
        """Compute it from a random sample of standardized rows: ``PRECONDITIONER_ROWS`` times as many as there are features."""
        some = torch.from_numpy(random_positions(PRECONDITIONER_ROWS * rows.shape[1], len(rows))).to(rows.device)
        total = torch.zeros_like(standardizer.mean)
        for part in chunk_slices(len(some), rows.shape[1], rows.device):
            these = standardizer(rows[some[part]])
            total = total + these.T @ these
        # A feature that is zero in all rows is an eigenvector whatever its value; MKL does not converge on rows of zeros.
        empty = (total.diagonal() == 0).to(total.dtype)
        values, vectors = torch.linalg.eigh(total / len(some) + torch.diag(empty))
        return cls(values.clamp(min=0), vectors)


def loss_and_gradient(
    model: LinearClassifier, rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " l"], LinearClassifier]:
    """Compute each head's cross-entropy, summed over the rows in float64, and its gradient.

    Scores are laid out as [classes, heads, rows]: on a CPU, both matrix products and the softmax over ten classes are several
    times as fast as row by row.

    Args:
        model: the classifiers.
        rows: features.
        labels: their classes, from 0.

    Returns:
        The loss of each head, and the gradients of its weights and bias.
    """
    rows = rows.to(model.weights.dtype)
    logs = F.log_softmax(model.scores(rows), dim=0)
    truth = labels.expand(1, logs.shape[1], -1)
    loss = -logs.gather(0, truth)[0].sum(dim=1, dtype=torch.float64)
    residual = logs.exp_().scatter_add_(0, truth, -logs.new_ones(truth.shape))
    return loss, LinearClassifier((residual.flatten(0, 1) @ rows).view_as(model.weights), residual.sum(dim=2))


@torch.no_grad()
def logistic_regression(
    rows: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    penalties: Float[Tensor, " l"],
    *,
    standardizer: Standardizer | None = None,
    preconditioner: Preconditioner | None = None,
    index: Int[Tensor, " some"] | None = None,
    start: LinearClassifier | None = None,
    tolerance: float = TOLERANCE,
    logger: Logger | None = None,
    what: str = "logistic regression",
) -> LinearClassifier:
    """Minimize ``sum of cross-entropies + penalty / 2 * |weights|^2`` for each penalty; the bias is not penalized.

    The same as scikit-learn's ``LogisticRegression(C=1 / penalty)``, for all penalties at once: each evaluation reads the rows
    once. L-BFGS (Nocedal 1980) works in coordinates in which Böhning's bound of the mean Hessian, ``1/2 (mean of row row^T) +
    penalty / n`` (Böhning 1992, section 2), is the identity, so the scales and correlations of the features cost nothing, and
    its first step may have length 1.

    Args:
        rows: the features, read in chunks of bounded memory and never copied as a whole.
        labels: from 0 to classes - 1.
        classes: number of classes.
        penalties: above 0; their precision is that of the fit.
        standardizer: fit to rows standardized by it, and return classifiers of such rows (see ``fold_standardizer``).
        preconditioner: of the standardized rows, if it is known; it affects only the speed.
        index: fit to these rows only.
        start: initial weights; None: zero.
        tolerance: a head is done when its gradient (of the mean loss, in those coordinates) has a norm below this.
        logger: receives progress, and a warning after ``MAX_ITERATIONS``.
        what: name of this fit for the logger.

    Returns:
        A head for each penalty.
    """
    standardizer = standardizer or Standardizer.identity(rows)
    preconditioner = preconditioner or Preconditioner.fit(rows, standardizer)
    count, width = len(rows if index is None else index), rows.shape[1]
    strengths = penalties / count
    coordinates = _Coordinates((preconditioner.values / 2 + strengths[:, None]).rsqrt(), preconditioner.vectors)

    def evaluate(point: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        at = coordinates.classifier(point, heads)
        raw, slope, lift = at.fold_standardizer(standardizer), torch.zeros_like(at.weights), torch.zeros_like(at.bias)
        value = strengths[heads] / 2 * at.weights.double().square().sum(dim=(0, 2))
        for part in chunk_slices(count, max(width, at.bias.numel()), rows.device):
            these = part if index is None else index[part]
            loss, gradient = loss_and_gradient(raw, rows[these], labels[these])
            value, slope, lift = value + loss / count, slope.add_(gradient.weights), lift.add_(gradient.bias)
        slope = (slope - lift[..., None] * standardizer.mean) * standardizer.scale / count
        slope = slope + strengths[heads, None] * at.weights
        return value, coordinates.gradient(slope, lift / count, heads)

    zero = coordinates.root.new_zeros(classes, len(penalties), width + 1)
    begin = zero if start is None else coordinates.point(start)
    found = _minimize(evaluate, begin, tolerance, logger or NullLogger(), what)
    return coordinates.classifier(found, torch.arange(len(penalties), device=rows.device))


@dataclass(frozen=True)
class _Coordinates:
    """The coordinates u in which L-BFGS works: ``weights = (u[..., :d] * root) @ vectors.T``, ``bias = sqrt(2) u[..., d]``."""

    root: Float[Tensor, "l d"]
    vectors: Float[Tensor, "d d"]

    def classifier(self, point: Tensor, heads: Tensor) -> LinearClassifier:
        """The classifier of some heads at a point [k l d+1]."""
        width = len(self.vectors)
        return LinearClassifier((point[..., :width] * self.root[heads]) @ self.vectors.T, point[..., width] * 2**0.5)

    def point(self, model: LinearClassifier) -> Tensor:
        """The point of a classifier with all heads."""
        return torch.cat([model.weights @ self.vectors / self.root, model.bias[..., None] / 2**0.5], dim=2)

    def gradient(self, weights: Tensor, bias: Tensor, heads: Tensor) -> Tensor:
        """The gradient of some heads at a point, from those of their weights and bias."""
        return torch.cat([weights @ self.vectors * self.root[heads], bias[..., None] * 2**0.5], dim=2)


def _minimize(evaluate: Evaluate, point: Tensor, tolerance: float, logger: Logger, what: str) -> Tensor:
    """Minimize a convex function for each head by L-BFGS; a head that is done is not evaluated again.

    ``evaluate`` maps a point [k l p] and the numbers of its heads [l] to their values [l] and gradients [k l p].
    """
    found, heads = point.clone(), torch.arange(point.shape[1], device=point.device)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    value, gradient = evaluate(point, heads)
    stuck = torch.zeros_like(heads, dtype=torch.bool)
    for _ in logger.progress(repeat(None, MAX_ITERATIONS), MAX_ITERATIONS, what):
        check_interrupted()
        active = (_dot(gradient, gradient).sqrt() > tolerance) & ~stuck
        if not active.all():
            found[:, heads] = point
            if not active.any():
                return found
            heads, value, point, gradient = heads[active], value[active], point[:, active], gradient[:, active]
            kept = [(move[:, active], change[:, active], weight[active]) for move, change, weight in pairs]
            pairs = deque(kept, maxlen=HISTORY)
        direction = _direction(gradient, pairs)
        moved, new_value, new_gradient, stuck = _line_search(evaluate, heads, point, value, gradient, direction)
        move, change = moved - point, new_gradient - gradient
        product = _dot(move, change)
        usable = product > torch.finfo(point.dtype).eps * _dot(change, change)
        pairs.append((move, change, torch.where(usable, 1 / product, 0.0)))
        point, value, gradient = moved, new_value, new_gradient
    found[:, heads] = point
    logger.warning(f"{what}: stopped after {MAX_ITERATIONS} iterations, before it converged")
    return found


def _line_search(
    evaluate: Evaluate, heads: Tensor, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take a step in a direction, halved until the value decreases enough.

    Returns the new point, value and gradient, and which heads are stuck: those whose value does not decrease by as much as
    their precision can resolve.
    """
    slope, step = _dot(gradient, direction), torch.ones_like(value)
    resolution = torch.finfo(point.dtype).eps * value.abs()
    for _ in range(MAX_HALVINGS):
        moved = point + step.to(point.dtype)[:, None] * direction
        new_value, new_gradient = evaluate(moved, heads)
        high = ~(new_value <= value + SUFFICIENT_DECREASE * step * slope + resolution)  # so that NaN is high
        if not high.any():
            break
        step = torch.where(high, step / 2, step)
    stuck = high | (new_value >= value - resolution)
    worse = ~(new_value <= value)
    moved = torch.where(worse[:, None], point, moved)
    return moved, torch.where(worse, value, new_value), torch.where(worse[:, None], gradient, new_gradient), stuck


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the gradient times L-BFGS's inverse Hessian (Nocedal 1980), for each head separately."""
    direction, shares = -gradient, []
    for move, change, weight in reversed(pairs):
        shares.append(weight * _dot(move, direction))
        direction = direction - shares[-1][:, None] * change
    if pairs:
        _, change, weight = pairs[-1]
        size = 1 / (weight * _dot(change, change))
        direction = direction * torch.where(weight > 0, size, 1.0)[:, None]
    for (move, change, weight), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - weight * _dot(change, direction))[:, None] * move
    return direction


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(0, 2))
