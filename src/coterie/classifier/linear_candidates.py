"""Linear classifiers of frozen features: logistic regression, and linear discriminant analysis for few labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.classifier.heads import linear_head
from coterie.classifier.training_images import Truth
from coterie.data.sources.source import random_positions
from coterie.evaluation.probes.linear import FINAL_TOLERANCE as FINAL
from coterie.evaluation.probes.linear import PENALTIES
from coterie.evaluation.probes.linear import SWEEP_TOLERANCE as SWEEP
from coterie.evaluation.probes.logistic_regression import LinearClassifier, logistic_regression
from coterie.evaluation.probes.standardize import Standardizer

SHRINKAGES = (0.1, 0.3, 0.6, 0.9)
"""Shares of the covariance that are replaced by a multiple of the identity (Ledoit & Wolf 2004)."""
MEASURED = 20_000
"""Images from which the principal components are computed, and the most without a label that take part."""
COMPONENTS = 256
"""Principal components in which discriminant analysis works."""
WITH_UNLABELED = "with unlabeled images"
"""Ends the names of the candidates in which images without a label take part."""
UNLABELED_ITERATIONS = 10
"""Of expectation maximization; more changed nothing."""


@dataclass(frozen=True)
class LinearCandidates:
    """Fits linear classifiers; those without a label beside the labeled images teach how features spread.

    Attributes:
        classes: number of classes.
        mean: of the features of all images.
        components: their principal components, one per column.
        unlabeled: the images without a label in these components; may have no row.
    """

    classes: int
    mean: Float[Tensor, " d"]
    components: Float[Tensor, "d p"]
    unlabeled: Float[Tensor, "m p"]

    @classmethod
    def of(
        cls, classes: int, rows: Float[Tensor, "n d"], unlabeled: Float[Tensor, "m d"] | None = None
    ) -> "LinearCandidates":
        """Compute the principal components of all images.

        Args:
            classes: number of classes.
            rows: features of the labeled images.
            unlabeled: of those without a label.
        """
        unlabeled = rows[:0] if unlabeled is None else unlabeled[:MEASURED]
        everything = torch.cat([rows, unlabeled])
        everything = everything[torch.from_numpy(random_positions(MEASURED, len(everything)))].double()
        mean = everything.mean(dim=0)
        centered = everything - mean
        if len(centered) < centered.shape[1]:
            values, vectors = torch.linalg.eigh(centered @ centered.T)
            kept = values > values[-1] * 1e-10
            components = F.normalize(centered.T @ vectors[:, kept], dim=0)
        else:
            _, components = torch.linalg.eigh(centered.T @ centered)
        components = components.flip(1)[:, :COMPONENTS]
        return cls(classes, mean, components, (unlabeled.double() - mean) @ components)

    @property
    def default(self) -> str:
        """The candidate that is good for few labels."""
        if len(self.unlabeled):
            return f"discriminant analysis, shrinkage 0.3, {WITH_UNLABELED}"
        return "logistic regression of unscaled features, penalty 10"

    def __call__(self, rows: Float[Tensor, "n d"], truth: Truth, only: str | None = None) -> Mapping[str, nn.Linear]:
        """Fit all candidates to some labeled images, or one of them.

        Args:
            rows: their features.
            truth: their classes; of images with several labels, each class is fitted by itself.
            only: the name of one candidate.
        """
        if truth.ndim == 2:
            return self._of_sets(rows, truth, only)
        found = dict[str, nn.Linear]()
        if only is None or only.startswith("logistic"):
            found |= _logistic(rows, truth, self.classes, only)
        for shrinkage in SHRINKAGES:
            for name, iterations in self._analyses(shrinkage):
                if only in (None, name):
                    found[name] = self._discriminant(rows, truth, shrinkage, iterations)
        return found

    def _analyses(self, shrinkage: float) -> list[tuple[str, int]]:
        name = f"discriminant analysis, shrinkage {shrinkage:g}"
        return [(name, 0), *([(f"{name}, {WITH_UNLABELED}", UNLABELED_ITERATIONS)] if len(self.unlabeled) else [])]

    def _discriminant(
        self, rows: Float[Tensor, "n d"], truth: Int[Tensor, " n"], shrinkage: float, iterations: int
    ) -> nn.Linear:
        """Linear discriminant analysis (Fisher 1936) with one shrunk covariance for all classes.

        With ``iterations``, images without a label take part by their probabilities (expectation maximization, Dempster et
        al. 1977, of a mixture of Gaussians in which the labeled images are known).
        """
        labeled = (rows.double() - self.mean) @ self.components
        shares = F.one_hot(truth, self.classes).double()
        weight, bias = _analysis(labeled, labeled.T @ labeled, shares, shrinkage)
        everything = torch.cat([labeled, self.unlabeled]) if iterations else labeled
        products = everything.T @ everything
        for _ in range(iterations):
            guessed = (self.unlabeled @ weight.T + bias).softmax(dim=1)
            weight, bias = _analysis(everything, products, torch.cat([shares, guessed]), shrinkage)
        weight = weight @ self.components.T
        return linear_head(weight, bias - weight @ self.mean)

    def _of_sets(self, rows: Float[Tensor, "n d"], truth: Truth, only: str | None) -> Mapping[str, nn.Linear]:
        """A logistic regression for each class: the difference of the two scores is its logit."""
        of_classes = [_logistic(rows, truth[:, number].long(), 2, only) for number in range(self.classes)]
        found = dict[str, nn.Linear]()
        for name in of_classes[0]:
            layers = [each[name] for each in of_classes]
            weight = torch.stack([layer.weight[1] - layer.weight[0] for layer in layers])
            found[name] = linear_head(weight, torch.stack([layer.bias[1] - layer.bias[0] for layer in layers]))
        return found


def _analysis(
    rows: Float[Tensor, "n p"], products: Float[Tensor, "p p"], shares: Float[Tensor, "n c"], shrinkage: float
) -> tuple[Float[Tensor, "c p"], Float[Tensor, " c"]]:
    """Weights and biases from rows, the sum of their products ``row row^T``, and their share in each class."""
    counts, total = shares.sum(dim=0), len(rows)
    means = (shares.T @ rows) / counts.clamp(min=1e-9)[:, None]
    within = (products - (means * counts[:, None]).T @ means) / max(1.0, total - len(counts))
    mean_variance = within.diagonal().clamp(min=0).mean().clamp(min=1e-12)
    spread = within * (1 - shrinkage)
    spread.diagonal().add_(shrinkage * mean_variance)
    weight = torch.linalg.solve(spread, means.T).T
    prior = ((counts + 1) / (total + len(counts))).log()
    return weight, prior - (weight * means).sum(dim=1) / 2


def _logistic(
    rows: Float[Tensor, "n d"], truth: Int[Tensor, " n"], classes: int, only: str | None
) -> dict[str, nn.Linear]:
    """Logistic regressions with several penalties, of features standardized one by one and of all scaled alike."""
    found = dict[str, nn.Linear]()
    alone = Standardizer.fit(rows)
    spread = (rows - alone.mean).square().mean().sqrt().clamp(min=1e-12)
    together = Standardizer(alone.mean, torch.ones_like(alone.scale) / spread)
    for of, standardizer in (("", alone), (" of unscaled features", together)):
        names = {f"logistic regression{of}, penalty {each:g}": each for each in PENALTIES}
        wanted = [name for name in names if only in (None, name)]
        if wanted:
            strengths = torch.tensor([names[name] for name in wanted])
            fitted = _regression(rows, truth, classes, strengths, standardizer, SWEEP if only is None else FINAL)
            layers = zip(fitted.weights.unbind(1), fitted.bias.unbind(1), strict=True)
            found |= {name: linear_head(*layer) for name, layer in zip(wanted, layers, strict=True)}
    return found


def _regression(
    rows: Float[Tensor, "n d"],
    truth: Int[Tensor, " n"],
    classes: int,
    penalties: Float[Tensor, " l"],
    standardizer: Standardizer,
    tolerance: float,
) -> LinearClassifier:
    """Classifiers of raw rows, one per penalty."""
    fit = partial(logistic_regression, labels=truth, classes=classes, penalties=penalties, tolerance=tolerance)
    if len(rows) >= rows.shape[1]:
        return fit(rows, standardizer=standardizer).fold_standardizer(standardizer)
    standard = standardizer(rows)  # the weights are combinations of the rows: as many numbers as there are rows suffice
    axes, _ = torch.linalg.qr(standard.T)
    found = fit(standard @ axes)
    return LinearClassifier(found.weights @ axes.T, found.bias).fold_standardizer(standardizer)
