"""Multinomial logistic regression with an L2 penalty: exact, several penalties at once, in parts of bounded memory."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.probes.standardize import Standardizer
from coterie.grouping.chunks import chunk_slices
from coterie.logger import Logger, NullLogger

MOST_ITERATIONS = 200
TOLERANCE = 1e-4
CURVED_ROWS = 16  # for each feature: as many rows tell the curvature well enough
HISTORY = 10  # pairs of (move, change of the gradient) that L-BFGS remembers
HALVINGS = 20  # of a step; a loss that has not fallen then is as low as this precision lets it be
SUFFICIENT = 1e-4  # share of the fall that the slope promises (Armijo's rule)

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LinearClassifier:
    """Linear classifiers, one for each of several heads: ``scores = weights . row + bias``."""

    weights: Float[Tensor, "k l d"]
    bias: Float[Tensor, "k l"]

    def scores(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "k l n"]:
        """What each head gives to each class of each row."""
        products = self.weights.flatten(0, 1) @ rows.to(self.weights.dtype).T
        return products.view(*self.bias.shape, -1).add_(self.bias[:, :, None])

    def head(self, number: int) -> "LinearClassifier":
        """One of the heads, alone."""
        return LinearClassifier(self.weights[:, number : number + 1], self.bias[:, number : number + 1])

    def before(self, standard: Standardizer) -> "LinearClassifier":
        """The classifier of rows as they are that scores them as this one scores standardized rows."""
        weights = self.weights * standard.scale
        return LinearClassifier(weights, self.bias - weights @ standard.mean)


@dataclass(frozen=True)
class Preconditioner:
    """The mean of ``row row^T`` by its eigenvalues and eigenvectors: in which directions the rows reach how far."""

    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d d"]

    @classmethod
    @torch.no_grad()
    def fit(cls, rows: Float[Tensor, "n d"], standard: Standardizer) -> "Preconditioner":
        """Of the standardized rows, told from ``CURVED_ROWS`` times as many of them as there are features."""
        some = rows[:: max(1, len(rows) // (CURVED_ROWS * rows.shape[1]))]
        total = torch.zeros_like(standard.mean)
        for part in chunk_slices(len(some), rows.shape[1], rows.device):
            these = standard(some[part])
            total = total + these.T @ these
        values, vectors = torch.linalg.eigh(total / len(some))
        return cls(values.clamp(min=0), vectors)


def loss_and_gradient(
    model: LinearClassifier, rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " l"], LinearClassifier]:
    """Each head's cross-entropy, summed over the rows in float64, and its gradient.

    Scores lie as [classes, heads, rows]: on a CPU both products and the softmax over ten classes are several times as fast
    as they are row by row.
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
    standard: Standardizer | None = None,
    curvature: Preconditioner | None = None,
    index: Int[Tensor, " some"] | None = None,
    start: LinearClassifier | None = None,
    tolerance: float = TOLERANCE,
    logger: Logger | None = None,
    what: str = "logistic regression",
) -> LinearClassifier:
    """For each penalty, where ``sum of cross-entropies + penalty / 2 * |weights|^2`` is least; the bias is free.

    The same as scikit-learn's ``LogisticRegression(C=1 / penalty)``. All penalties are fitted at once: each evaluation reads
    the rows once, for losses and gradients of all heads. L-BFGS (Nocedal 1980) works in coordinates in which Böhning's bound
    of the mean Hessian, ``1/2 (mean of row row^T) + penalty / n`` (Böhning 1992, section 2), is the identity, so the
    features' sizes and correlations cost it nothing and its first step may have length 1.

    Args:
        rows: the features, read in parts of bounded memory and nowhere copied.
        labels: 0 .. classes - 1.
        classes: how many there are.
        penalties: above 0; their precision is that of the fit.
        standard: fit to, and return classifiers of, rows standardized so (for rows as they are: :meth:`Linear.before`).
        curvature: of the rows, if it is known; it decides the speed only.
        index: fit to these rows only.
        start: where to begin; the default is zero.
        tolerance: a head ends when its gradient (of the mean loss, in those coordinates) has a norm below.
        logger: is shown the iterations, and warned when there were ``MOST_ITERATIONS``.
        what: how the logger shall call it.
    """
    standard = standard or Standardizer.identity(rows)
    curvature = curvature or Preconditioner.fit(rows, standard)
    count, width = len(rows if index is None else index), rows.shape[1]
    strengths = penalties / count
    root = (curvature.values / 2 + strengths[:, None]).rsqrt()  # [l d]

    def model(point: Tensor, heads: Tensor) -> LinearClassifier:
        return LinearClassifier((point[..., :width] * root[heads]) @ curvature.vectors.T, point[..., width] * 2**0.5)

    def evaluate(point: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        at = model(point, heads)
        asked, slope, lift = at.before(standard), torch.zeros_like(at.weights), torch.zeros_like(at.bias)
        value = strengths[heads] / 2 * at.weights.double().square().sum(dim=(0, 2))
        for part in chunk_slices(count, max(width, at.bias.numel()), rows.device):
            these = part if index is None else index[part]
            loss, gradient = loss_and_gradient(asked, rows[these], labels[these])
            value, slope, lift = value + loss / count, slope.add_(gradient.weights), lift.add_(gradient.bias)
        slope = (slope - lift[..., None] * standard.mean) * standard.scale / count + strengths[heads, None] * at.weights
        return value, torch.cat([slope @ curvature.vectors * root[heads], lift[..., None] / count * 2**0.5], dim=2)

    begin = root.new_zeros(classes, len(penalties), width + 1)
    if start is not None:
        begin = torch.cat([start.weights @ curvature.vectors / root, start.bias[..., None] / 2**0.5], dim=2)
    everyone = torch.arange(len(penalties), device=rows.device)
    return model(_minimum(evaluate, begin, tolerance, logger or NullLogger(), what), everyone)


def _minimum(evaluate: Evaluate, point: Tensor, tolerance: float, logger: Logger, what: str) -> Tensor:
    """Where each head's convex function is least, by L-BFGS; a head that has arrived is not evaluated again.

    ``evaluate`` takes a point [k l p] and the numbers of its heads [l] to their values [l] and gradients [k l p].
    """
    found, heads = point.clone(), torch.arange(point.shape[1], device=point.device)
    pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    value, gradient = evaluate(point, heads)
    stuck = torch.zeros_like(heads, dtype=torch.bool)
    for _ in logger.progress(repeat(None, MOST_ITERATIONS), MOST_ITERATIONS, what):
        going = (_dot(gradient, gradient).sqrt() > tolerance) & ~stuck
        if not going.all():
            found[:, heads] = point
            if not going.any():
                return found
            heads, value, point, gradient = heads[going], value[going], point[:, going], gradient[:, going]
            kept = [(move[:, going], change[:, going], weight[going]) for move, change, weight in pairs]
            pairs = deque(kept, maxlen=HISTORY)
        direction = _direction(gradient, pairs)
        moved, new_value, new_gradient, stuck = _line_search(evaluate, heads, point, value, gradient, direction)
        move, change = moved - point, new_gradient - gradient
        product = _dot(move, change)
        usable = product > torch.finfo(point.dtype).eps * _dot(change, change)
        pairs.append((move, change, torch.where(usable, 1 / product, 0.0)))
        point, value, gradient = moved, new_value, new_gradient
    found[:, heads] = point
    logger.warning(f"{what}: stopped after {MOST_ITERATIONS} iterations, before it was done")
    return found


def _line_search(
    evaluate: Evaluate, heads: Tensor, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A step along the direction, halved until the value falls enough: where it leads, value, gradient, and who is stuck.

    A head is stuck when its value does not fall by as much as its precision can tell.
    """
    slope, step = _dot(gradient, direction), torch.ones_like(value)
    least = torch.finfo(point.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        moved = point + step.to(point.dtype)[:, None] * direction
        new_value, new_gradient = evaluate(moved, heads)
        high = ~(new_value <= value + SUFFICIENT * step * slope + least)  # so that NaN is high
        if not high.any():
            break
        step = torch.where(high, step / 2, step)
    stuck = high | (new_value >= value - least)
    worse = ~(new_value <= value)
    moved = torch.where(worse[:, None], point, moved)
    return moved, torch.where(worse, value, new_value), torch.where(worse[:, None], gradient, new_gradient), stuck


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the gradient times L-BFGS's inverse Hessian (Nocedal 1980), of each head by itself."""
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
