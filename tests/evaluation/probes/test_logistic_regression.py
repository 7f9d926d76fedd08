import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

import coterie.evaluation.probes.logistic_regression as module
from coterie.evaluation.probes.logistic_regression import (
    LinearClassifier,
    Preconditioner,
    logistic_regression,
    loss_and_gradient,
)
from coterie.evaluation.probes.standardize import Standardizer
from coterie.logger import NullLogger

DOUBLE, SINGLE = torch.finfo(torch.float64).eps, torch.finfo(torch.float32).eps
ROUNDINGS = 10
"""What rounding errors add up to, in units of one. A row's loss takes about 20 roundings: d + 1 products and sums, a softmax,
and log2(n) sums; independent ones add up like their square root. Times 2, because the line search may end although another
step could gain half of what there is left."""


def problem(
    n: int = 400, d: int = 8, classes: int = 4, scale: float = 1.0, correlated: bool = True
) -> tuple[Tensor, Tensor]:
    """Overlapping classes in float64; the features are not centered, and their scales extend from 1 to ``scale``."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (n,), generator=generator)
    centers = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    rows = 0.7 * centers[labels] + torch.randn(n, d, generator=generator, dtype=torch.float64)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    rows = rows @ mixing if correlated else rows
    return (rows + 0.5) * torch.logspace(0, math.log10(scale), d, dtype=torch.float64), labels


def objective(model: LinearClassifier, rows: Tensor, labels: Tensor, penalties: Tensor) -> Tensor:
    losses = torch.stack(
        [
            F.cross_entropy(rows @ w.T + b, labels)
            for w, b in zip(model.weights.unbind(1), model.bias.unbind(1), strict=True)
        ]
    )
    return len(rows) * losses + penalties / 2 * model.weights.square().sum(dim=(0, 2))


@dataclass(frozen=True)
class Accuracy:
    """How far a fit may be from the optimum: its weights, its bias, and its scores of the rows."""

    weights: float
    bias: float
    scores: float

    def __add__(self, other: "Accuracy") -> "Accuracy":
        """How far apart two fits may be."""
        return Accuracy(self.weights + other.weights, self.bias + other.bias, self.scores + other.scores)


def accuracy_of(
    model: LinearClassifier,
    rows: Tensor,
    labels: Tensor,
    penalty: float,
    *,
    tolerance: float,
    preconditioned: bool = True,
    eps: float = DOUBLE,
    offset: float = 0.0,
) -> Accuracy:
    """What a fit that ended at ``model`` (one head) can promise, whatever the kernels and the order of their sums.

    It ends when the gradient is below the tolerance, or when the loss does not decrease any more as far as it can be resolved.
    With the smallest eigenvalue mu of the Hessian, the first means |u - u*| <= tolerance / mu in the coordinates u of the fit,
    and the second mu / 2 |u - u*|^2 <= resolution. The loss of a row is resolved up to eps times the terms that its scores are
    summed from (with ``offset``, those of the raw rows: ``offset`` standard deviations each), and, because errors of different
    rows are independent, their mean is sqrt(n) times better.
    """
    count, width = rows.shape
    weights, bias = model.weights[:, 0].double(), model.bias[:, 0].double()
    inputs = F.pad(rows, (0, 1), value=1.0)
    coordinates = torch.eye(width + 1, dtype=torch.float64)  # [weights, bias] = u @ coordinates.T
    if preconditioned:
        found = Preconditioner.fit(rows, Standardizer.identity(rows))
        root = (found.values / 2 + penalty / count).rsqrt()
        coordinates[:width, :width], coordinates[width, width] = found.vectors * root, 2**0.5
    # The Hessian of the mean loss, along the directions in which a fit moves: those that sum to 0 over the classes.
    p = (rows @ weights.T + bias).softmax(dim=1)
    basis = torch.linalg.qr(torch.cat([torch.ones(len(bias), 1), torch.eye(len(bias))[:, 1:]], dim=1).double()).Q[:, 1:]
    by_class = torch.einsum("ka,nkl,lb->nab", basis, torch.diag_embed(p) - p[:, :, None] * p[:, None], basis)
    hessian = torch.einsum("nab,ni,nj->aibj", by_class, inputs @ coordinates, inputs @ coordinates) / count
    ridge = coordinates[:width].T @ coordinates[:width] * penalty / count
    hessian = hessian + torch.einsum("ab,ij->aibj", torch.eye(len(bias) - 1, dtype=torch.float64), ridge)
    mu = torch.linalg.eigvalsh(hessian.flatten(0, 1).flatten(1)).min()
    loss = objective(LinearClassifier(weights[:, None], bias[:, None]), rows, labels, torch.tensor(penalty)) / count
    terms = (rows.abs().max(dim=0).values + offset) @ weights.abs().max(dim=0).values + bias.abs().max()
    resolution = ROUNDINGS * eps * (loss[0] + terms / math.sqrt(count))
    moved = float(tolerance / mu + (2 * resolution / mu).sqrt())
    by_weights, by_bias = float(torch.linalg.matrix_norm(coordinates[:width], 2)), float(coordinates[width, width])
    by_scores = float(torch.linalg.vector_norm(inputs @ coordinates, dim=1).max())
    return Accuracy(moved * by_weights, moved * by_bias, moved * by_scores)


def assert_within(found: Tensor | np.ndarray, expected: Tensor | np.ndarray, allowed: float) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=allowed, rtol=0)


class Counter(NullLogger):
    """Counts iterations and keeps warnings."""

    def __init__(self) -> None:
        self.iterations, self.warnings = 0, list[str]()

    def progress(self, items, total, what):  # type: ignore[no-untyped-def]
        for item in items:
            yield item
            self.iterations += 1

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("classes", [2, 4])
def test_several_penalties_at_once_agree_with_scikit_learn(classes: int) -> None:
    rows, labels = problem(classes=classes)
    penalties = torch.tensor([400.0, 4.0, 0.4], dtype=torch.float64)
    model = logistic_regression(rows, labels, classes, penalties, tolerance=1e-8)
    ours = objective(model, rows, labels, penalties)
    for number, penalty in enumerate(penalties.tolist()):
        head = model.head(number)
        # scikit-learn ends where its gradient is below tol, or where a step gains less than 64 eps of the loss: without a
        # preconditioner that may be as little as a tenth of what there is left to gain.
        allowed = accuracy_of(head, rows, labels, penalty, tolerance=1e-8) + accuracy_of(
            head, rows, labels, penalty, tolerance=1e-8, preconditioned=False, eps=640 * DOUBLE
        )
        assert allowed.weights < 0.01 * float(head.weights.abs().max())
        # Of two classes it fits one column u with |u|^2; ours are u / 2 and -u / 2, which have half of that.
        strength = 1 / penalty if classes > 2 else 2 / penalty
        oracle = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(rows.numpy(), labels.numpy())
        weights, bias = torch.from_numpy(oracle.coef_), torch.from_numpy(oracle.intercept_)
        if classes == 2:
            weights, bias = torch.cat([-weights, weights]) / 2, torch.cat([-bias, bias]) / 2
        assert_within(head.weights[:, 0], weights, allowed.weights)
        assert_within(head.bias[:, 0], bias, allowed.bias)
        scores = model.scores(rows)[:, number].T
        assert_within(scores.softmax(1), oracle.predict_proba(rows.numpy()), allowed.scores)
        theirs = objective(LinearClassifier(weights[:, None], bias[:, None]), rows, labels, penalties[number])[0]
        assert ours[number] <= theirs * (1 + ROUNDINGS * DOUBLE * math.sqrt(len(rows)))


def test_the_gradient_is_that_of_autograd() -> None:
    rows, labels = problem(n=30)
    weights = torch.randn(4, 3, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.einsum("kld,nd->lnk", weights, rows) + bias.T[:, None]
    losses = torch.stack([F.cross_entropy(each, labels, reduction="sum") for each in scores])
    losses.sum().backward()
    found, gradient = loss_and_gradient(LinearClassifier(weights.detach(), bias.detach()), rows, labels)
    torch.testing.assert_close(found, losses.detach())
    torch.testing.assert_close(gradient.weights, weights.grad)
    torch.testing.assert_close(gradient.bias, bias.grad)


def test_an_index_is_the_same_as_fewer_rows() -> None:
    rows, labels = problem()
    index = torch.arange(len(rows))[1::3]
    penalty = torch.tensor([4.0], dtype=torch.float64)
    chosen = logistic_regression(rows, labels, 4, penalty, index=index, tolerance=1e-9)
    fewer = logistic_regression(rows[index], labels[index], 4, penalty, tolerance=1e-9)
    allowed = accuracy_of(fewer, rows[index], labels[index], 4.0, tolerance=1e-9)
    assert_within(chosen.weights, fewer.weights, 2 * allowed.weights)
    assert (logistic_regression(rows, labels, 4, penalty).weights - fewer.weights).abs().max() > 1000 * allowed.weights


def test_standardized_rows_need_not_be_stored() -> None:
    rows, labels = problem(scale=1e3)
    standardizer = Standardizer.fit(rows)
    penalty = torch.tensor([4.0], dtype=torch.float64)
    stored = logistic_regression(standardizer(rows), labels, 4, penalty, tolerance=1e-9)
    folded = logistic_regression(rows, labels, 4, penalty, standardizer=standardizer, tolerance=1e-9)
    offset = float((standardizer.mean * standardizer.scale).abs().max())
    allowed = accuracy_of(stored, standardizer(rows), labels, 4.0, tolerance=1e-9, offset=offset)
    assert allowed.weights < 1e-4
    assert_within(folded.weights, stored.weights, 2 * allowed.weights)
    scores = folded.fold_standardizer(standardizer).scores(rows)
    assert_within(scores, stored.scores(standardizer(rows)), 2 * allowed.scores)


def test_half_precision_rows_are_fitted_in_single() -> None:
    rows, labels = problem()
    standardizer = Standardizer.fit(rows.half())
    found = logistic_regression(rows.half(), labels, 4, torch.tensor([4.0]), standardizer=standardizer)
    expected = logistic_regression(rows.half().float(), labels, 4, torch.tensor([4.0]), standardizer=standardizer)
    torch.testing.assert_close(found.weights, expected.weights)


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = problem()
    penalties = torch.tensor([400.0, 0.4], dtype=torch.float64)
    whole = logistic_regression(rows, labels, 4, penalties, tolerance=1e-9)
    largest, original = [], module.loss_and_gradient

    def watched(model: LinearClassifier, part: Tensor, truth: Tensor) -> tuple[Tensor, LinearClassifier]:
        largest.append(max(part.numel(), len(part) * model.bias.numel()))
        return original(model, part, truth)

    monkeypatch.setattr(module, "loss_and_gradient", watched)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 300)
    parted = logistic_regression(rows, labels, 4, penalties, tolerance=1e-9)
    assert max(largest) <= 300
    for number, penalty in enumerate(penalties.tolist()):
        allowed = accuracy_of(whole.head(number), rows, labels, penalty, tolerance=1e-9)
        assert_within(parted.head(number).weights, whole.head(number).weights, 2 * allowed.weights)


def test_correlated_features_of_any_scale_cost_few_iterations() -> None:
    rows, labels = problem(scale=1e4)
    rows = rows - rows.mean(dim=0)
    values = Preconditioner.fit(rows, Standardizer.identity(rows)).values
    assert values.max() / values.min() > 1e8
    logger = Counter()
    penalty = torch.tensor([0.04], dtype=torch.float64)
    logistic_regression(rows, labels, 4, penalty, logger=logger)
    assert logger.iterations < 40  # without a preconditioner it does not converge in 200
    assert not logger.warnings


@pytest.mark.parametrize(("count", "width", "alive"), [(50, 256, 40), (288, 512, 100), (400, 512, 511), (10, 64, 0)])
def test_features_that_are_zero_everywhere_are_no_obstacle(count: int, width: int, alive: int) -> None:
    """As of units that a network has lost: MKL's eigenvalues do not converge on the rows of zeros that they leave."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(count, width)
    some = torch.randperm(width, generator=generator)[:alive]
    rows[:, some] = torch.randn(count, alive, generator=generator)
    rows = rows[:, torch.arange(width) // 2]  # and each feature twice
    found = Preconditioner.fit(rows, Standardizer.fit(rows))
    scaled = Standardizer.fit(rows)(rows)
    expected = torch.linalg.matrix_norm(scaled, ord=2) ** 2 / count if scaled.any() else torch.tensor(1.0)
    assert torch.allclose(found.values.max(), expected, rtol=1e-3)
    labels = torch.arange(count) % 3
    fitted = logistic_regression(
        rows, labels, 3, torch.tensor([1.0]), standardizer=Standardizer.fit(rows), preconditioner=found
    )
    assert fitted.weights[:, 0, rows.any(dim=0).logical_not()].abs().max() < 1e-6


def test_a_start_at_the_optimum_needs_no_iteration() -> None:
    rows, labels = problem()
    penalty = torch.tensor([0.4], dtype=torch.float64)
    cold, warm = Counter(), Counter()
    logistic_regression(rows, labels, 4, penalty, tolerance=1e-5, logger=cold)
    best = logistic_regression(rows, labels, 4, penalty, tolerance=1e-9)  # or a gradient of sqrt(2 resolution), 1e-7
    again = logistic_regression(rows, labels, 4, penalty, tolerance=1e-5, start=best, logger=warm)
    assert cold.iterations > 5
    assert warm.iterations == 0
    torch.testing.assert_close(again.weights, best.weights)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_float32_is_as_accurate_as_its_precision_allows(offset: float) -> None:
    rows, labels = problem(scale=1e2, correlated=False)
    rows = (rows + offset * rows.std(dim=0)).float()
    exact_standardizer, penalty = Standardizer.fit(rows.double()), torch.tensor([40.0])
    found = logistic_regression(rows, labels, 4, penalty, standardizer=Standardizer.fit(rows))
    exact = logistic_regression(
        rows.double(), labels, 4, penalty.double(), standardizer=exact_standardizer, tolerance=1e-9
    )
    assert found.weights.dtype == torch.float32
    standard = exact_standardizer(rows.double())
    allowed = accuracy_of(exact, standard, labels, 40.0, tolerance=module.TOLERANCE, eps=SINGLE, offset=offset)
    assert allowed.weights < (0.02 if offset == 0 else 0.1) * float(exact.weights.abs().max())
    assert_within(found.weights.double(), exact.weights, allowed.weights)


def test_too_few_iterations_give_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITERATIONS", 2)
    rows, labels = problem()
    logger = Counter()
    logistic_regression(rows, labels, 4, torch.tensor([4e-4], dtype=torch.float64), logger=logger, what="the probe")
    assert logger.warnings == ["the probe: stopped after 2 iterations, before it converged"]
