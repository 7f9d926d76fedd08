import math

import pytest
import torch
from torch.nn import functional as F

from coterie.grouping.loss import at_least_float32, cosine_scores, prediction_loss
from coterie.types import Target


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_codes_labels_heads_and_views_that_do_not_predict() -> None:
    p, centers = unit(4, 6, 5), [unit(7, 5, seed=1), unit(3, 5, seed=2)]
    codes = torch.rand(6, 7, dtype=torch.float64).softmax(dim=1)
    labels = torch.tensor([0, 2, -100, 1, -100, 2])
    targets = [Target(codes, 0, 0), Target(codes.flip(0), 0, 1), Target(labels, 1, None)]
    ours = prediction_loss(p, centers, targets, 0.1, (0, 1, 2, 3))
    means = []
    for target in targets:
        predicting = [view for view in range(4) if view != target.view]
        logits = torch.cat([p[view] @ centers[target.head].T / 0.1 for view in predicting])
        means.append(F.cross_entropy(logits, torch.cat([target.values] * len(predicting))))  # torch's own is the oracle
    torch.testing.assert_close(ours, torch.stack(means).mean(), rtol=1e-12, atol=0)


def test_every_view_predicts_a_target_from_elsewhere() -> None:
    p, centers = unit(2, 3, 4), [unit(5, 4, seed=1)]
    codes = torch.full((3, 5), 0.2, dtype=torch.float64)
    elsewhere = prediction_loss(p, centers, [Target(codes, 0, 7)], 0.1, (2, 3))
    nowhere = prediction_loss(p, centers, [Target(codes, 0, None)], 0.1, (2, 3))
    assert elsewhere == nowhere


def test_without_any_label_the_loss_is_zero_not_nan() -> None:
    p = unit(2, 3, 4).requires_grad_()
    loss = prediction_loss(p, [unit(5, 4, seed=1)], [Target(torch.full((3,), -100), 0, None)], 0.1, (0, 1))
    loss.backward()
    assert loss == 0
    assert (p.grad == 0).all()


def test_collapsed_embeddings_have_a_loss_of_ln_k() -> None:
    p, centers = unit(1, 1, 4).expand(3, 8, 4), [unit(1, 4, seed=1).expand(10, 4)]
    codes = torch.full((8, 10), 0.1, dtype=torch.float64)
    loss = prediction_loss(p, centers, [Target(codes, 0, 0)], 0.1, (0, 1, 2))
    assert loss.item() == pytest.approx(math.log(10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_never_below_float32(dtype: torch.dtype) -> None:
    codes = torch.full((3, 5), 0.2)
    loss = prediction_loss(unit(2, 3, 4).to(dtype), [unit(5, 4).to(dtype)], [Target(codes, 0, 0)], 0.1, (0, 1))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "result"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_scores_are_cosines_in_float32_or_wider(dtype: torch.dtype, result: torch.dtype) -> None:
    rows, centers = unit(2, 3, 4), unit(5, 4, seed=1)
    scores = cosine_scores(rows.to(dtype), centers.to(dtype))
    assert scores.dtype == result
    expected = torch.nn.functional.cosine_similarity(rows[:, :, None], centers, dim=-1)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=2e-3 if dtype == torch.float16 else 1e-12)
    assert at_least_float32(rows) is rows
