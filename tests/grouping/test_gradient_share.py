import math

import pytest
import torch
from torch.nn import functional as F

from coterie.grouping.assignment import Sinkhorn
from coterie.grouping.batch_objective import BatchObjective, Identity
from coterie.grouping.gradient_share import gradient_share
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.objective import Objective
from coterie.grouping.regularizers import (
    CodingRate,
    Regularizer,
    regularize,
)
from coterie.types import Batch, Progress, Roles
from tests.grouping.unit_rows import KINDS, unit

START = Progress(0, 10, 100)


def along_sphere(gradient: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return gradient - (gradient * rows).sum(dim=-1, keepdim=True) * rows


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda each: type(each).__name__)
def test_both_gradients_by_separate_backward_passes(kind: Regularizer, predictor: bool) -> None:
    centers = [unit(4, 5, seed=2)]

    def inputs() -> list[torch.Tensor]:
        return [unit(2, 6, 5, seed=seed).requires_grad_() for seed in range(1 + predictor)]

    def predict(p: torch.Tensor) -> torch.Tensor:
        return (p[0] * p[1].roll(1, 0)).sum()

    parts, sums = [], [torch.zeros(2, 6, 5).double() for _ in inputs()]
    for term_of in (lambda z, p: predict(p), lambda z, p: kind.weight * kind(z, p, centers, 0.1)):
        rows = inputs()
        found = torch.autograd.grad(term_of(rows[0], rows[-1]), rows, allow_unused=True, materialize_grads=True)
        parts.append(sum(along_sphere(*pair).square().sum().item() for pair in zip(found, rows, strict=True)))
        sums = [before + each for before, each in zip(sums, found, strict=True)]
    rows = inputs()
    loss, term, squares = regularize(kind, predict(rows[-1]), rows[0], rows[-1], centers, 0.1)
    assert term is not None
    assert squares is not None
    assert gradient_share(squares) is None, "nothing went backward yet"
    gradients = torch.autograd.grad(loss, rows, allow_unused=True, materialize_grads=True)
    for gradient, expected in zip(gradients, sums, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert squares.tolist() == pytest.approx(parts)
    predictions, regularizer = map(math.sqrt, parts)
    assert gradient_share(squares) == pytest.approx(regularizer / (predictions + regularizer))


def test_without_gradient_nothing_is_measured() -> None:
    z = unit(2, 6, 5)
    _, term, squares = regularize(CodingRate(), z.sum(), z, z, [], 0.1)
    assert term is not None
    assert squares is not None
    assert gradient_share(squares) is None
    assert regularize(None, z.sum(), z, z, [], 0.1)[1:] == (None, None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("lasting", [True, False], ids=["lasting groups", "the batch"])
def test_a_step_in_bfloat16_computes_every_kind_in_float32(kind: Regularizer, lasting: bool) -> None:
    roles, layer = Roles((0, 1), (0, 1), (0, 1)), torch.nn.Linear(12, 6)
    groups = LearnedGroups([unit(5, 6).float()])
    objective = (
        Objective(groups, Sinkhorn(), roles, regularizer=kind)
        if lasting
        else BatchObjective(Identity(), roles, gradient=True, regularizer=kind)
    )

    def student(views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.stack([layer(view.flatten(1)) for view in views])
        assert h.dtype == torch.bfloat16
        z = F.normalize(h.float(), dim=-1)
        return h, z, z

    images = torch.randn(2, 8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = objective(student, Batch(torch.arange(8), {0: images[0], 1: images[1]}), START)
    assert result.regularization is not None
    assert result.regularization.dtype == torch.float32
    centers = groups.centers() if lasting else [result.z.flatten(0, 1)]
    expected = kind.weight * kind(result.z, result.z, centers, objective.temperature).detach()
    torch.testing.assert_close(result.regularization, expected, rtol=1e-6, atol=1e-6)
    result.loss.backward()
    assert result.gradient_squares is not None
    share = gradient_share(result.gradient_squares)
    assert share is not None
    assert 0 < share < 1
