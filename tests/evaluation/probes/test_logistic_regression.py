import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

import coterie.evaluation.probes.logistic_regression as logistic
import coterie.evaluation.probes.standardize
from coterie.evaluation.probes.logistic_regression import (
    LinearClassifier,
    Preconditioner,
    logistic_regression,
    loss_and_gradient,
)
from coterie.evaluation.probes.standardize import Standardizer
from coterie.logger import NullLogger


def problem(n: int = 400, d: int = 8, classes: int = 4, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping classes in float64; the features are correlated, not centered, and reach from 1 to ``spread``."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (n,), generator=generator)
    centers = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    rows = 0.7 * centers[labels] + torch.randn(n, d, generator=generator, dtype=torch.float64)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return (rows @ mixing + 0.5) * torch.logspace(0, np.log10(spread), d, dtype=torch.float64), labels


def objective(model: LinearClassifier, rows: Tensor, labels: Tensor, penalties: Tensor) -> Tensor:
    losses = torch.stack(
        [
            F.cross_entropy(rows @ w.T + b, labels)
            for w, b in zip(model.weights.unbind(1), model.bias.unbind(1), strict=True)
        ]
    )
    return len(rows) * losses + penalties / 2 * model.weights.square().sum(dim=(0, 2))


class Counting(NullLogger):
    """Counts iterations and keeps warnings."""

    def __init__(self) -> None:
        self.iterations, self.warnings = 0, list[str]()

    def progress(self, items, total, what):  # type: ignore[no-untyped-def]
        for item in items:
            yield item
            self.iterations += 1

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_several_penalties_at_once_agree_with_scikit_learn() -> None:
    rows, labels = problem()
    penalties = torch.tensor([400.0, 4.0, 0.04], dtype=torch.float64)
    model = logistic_regression(rows, labels, 4, penalties, tolerance=1e-8)
    ours = objective(model, rows, labels, penalties)
    for head, penalty in enumerate(penalties.tolist()):
        oracle = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=10_000).fit(rows.numpy(), labels.numpy())
        np.testing.assert_allclose(model.weights[:, head].numpy(), oracle.coef_, atol=2e-5)
        np.testing.assert_allclose(model.bias[:, head].numpy(), oracle.intercept_, atol=1e-4)
        scores = model.scores(rows)[:, head].T
        np.testing.assert_allclose(scores.softmax(1).numpy(), oracle.predict_proba(rows.numpy()), atol=1e-5)
        theirs = LinearClassifier(torch.from_numpy(oracle.coef_)[:, None], torch.from_numpy(oracle.intercept_)[:, None])
        assert ours[head] <= objective(theirs, rows, labels, penalties[head])[0] + 1e-9


def test_two_classes_agree_with_scikit_learn() -> None:
    """Of two classes scikit-learn fits one column u with |u|^2; ours are u / 2 and -u / 2, which have half of that."""
    rows, labels = problem(classes=2)
    model = logistic_regression(rows, labels, 2, torch.tensor([4.0], dtype=torch.float64), tolerance=1e-8)
    oracle = LogisticRegression(C=2 / 4.0, tol=1e-8, max_iter=10_000).fit(rows.numpy(), labels.numpy())
    np.testing.assert_allclose((model.weights[1] - model.weights[0]).numpy(), oracle.coef_, atol=2e-5)


def test_the_gradient_is_autograds() -> None:
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
    torch.testing.assert_close(chosen.weights, fewer.weights, atol=1e-7, rtol=0)


def test_standardized_rows_need_not_be_made() -> None:
    rows, labels = problem(spread=1e3)
    standard = Standardizer.fit(rows)
    penalty = torch.tensor([4.0], dtype=torch.float64)
    made = logistic_regression(standard(rows), labels, 4, penalty, tolerance=1e-9)
    folded = logistic_regression(rows, labels, 4, penalty, standard=standard, tolerance=1e-9)
    torch.testing.assert_close(folded.weights, made.weights, atol=1e-7, rtol=0)
    torch.testing.assert_close(folded.before(standard).scores(rows), made.scores(standard(rows)), atol=1e-6, rtol=0)


def test_half_precision_rows_are_fitted_in_single() -> None:
    rows, labels = problem()
    standard = Standardizer.fit(rows.half())
    found = logistic_regression(rows.half(), labels, 4, torch.tensor([4.0]), standard=standard)
    expected = logistic_regression(rows.half().float(), labels, 4, torch.tensor([4.0]), standard=standard)
    torch.testing.assert_close(found.weights, expected.weights)


def test_parts_bound_the_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = problem()
    penalties = torch.tensor([400.0, 0.4], dtype=torch.float64)
    whole = logistic_regression(rows, labels, 4, penalties, tolerance=1e-9)
    largest, original = [], logistic.loss_and_gradient

    def watched(model: LinearClassifier, part: Tensor, truth: Tensor) -> tuple[Tensor, LinearClassifier]:
        largest.append(max(part.numel(), len(part) * model.bias.numel()))
        return original(model, part, truth)

    monkeypatch.setattr(logistic, "loss_and_gradient", watched)
    monkeypatch.setattr(coterie.evaluation.probes.standardize, "CPU_ELEMENTS", 300)
    parted = logistic_regression(rows, labels, 4, penalties, tolerance=1e-9)
    assert max(largest) <= 300
    torch.testing.assert_close(parted.weights, whole.weights, atol=1e-7, rtol=0)


def test_correlated_features_of_any_size_cost_few_iterations() -> None:
    rows, labels = problem(spread=1e4)
    rows = rows - rows.mean(dim=0)
    values = Preconditioner.fit(rows, Standardizer.identity(rows)).values
    assert values.max() / values.min() > 1e8
    logger = Counting()
    penalty = torch.tensor([0.04], dtype=torch.float64)
    logistic_regression(rows, labels, 4, penalty, logger=logger)
    assert logger.iterations < 30
    assert not logger.warnings


def test_a_start_near_the_goal_saves_iterations_and_ends_at_the_same_place() -> None:
    rows, labels = problem()
    penalty = torch.tensor([0.4], dtype=torch.float64)
    cold, warm = Counting(), Counting()
    first = logistic_regression(rows, labels, 4, penalty, tolerance=1e-7, logger=cold)
    again = logistic_regression(rows, labels, 4, penalty, tolerance=1e-7, start=first, logger=warm)
    assert warm.iterations == 0
    assert cold.iterations > 5
    torch.testing.assert_close(again.weights, first.weights)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_float32_comes_as_near_as_its_precision(offset: float) -> None:
    rows, labels = problem(spread=1e2)
    rows = (rows + offset * rows.std(dim=0)).float()
    standard, penalty = Standardizer.fit(rows), torch.tensor([0.4])
    rough = logistic_regression(rows, labels, 4, penalty, standard=standard)
    exact = logistic_regression(
        rows.double(), labels, 4, penalty.double(), standard=Standardizer.fit(rows.double()), tolerance=1e-9
    )
    assert rough.weights.dtype == torch.float32
    torch.testing.assert_close(rough.weights.double(), exact.weights, atol=5e-3, rtol=0)


def test_too_few_iterations_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MOST_ITERATIONS", 2)
    rows, labels = problem()
    logger = Counting()
    logistic_regression(rows, labels, 4, torch.tensor([4e-4], dtype=torch.float64), logger=logger, what="the probe")
    assert logger.warnings == ["the probe: stopped after 2 iterations, before it was done"]
