import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

import coterie.evaluation.neighbors
from coterie.evaluation.neighbors import nearest
from coterie.evaluation.probes.knn import knn


def test_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(300, 16, generator=generator, dtype=torch.float64), dim=1)
    queries = F.normalize(torch.randn(40, 16, generator=generator, dtype=torch.float64), dim=1)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(rows.numpy())
    distance, position = oracle.kneighbors(queries.numpy())
    similarity, found = nearest(queries, rows, 7)
    np.testing.assert_array_equal(found.numpy(), position)
    np.testing.assert_allclose(1 - similarity.numpy(), distance, atol=1e-12)


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, topk = [], torch.topk

    def watched(scores: torch.Tensor, count: int, dim: int) -> object:
        largest.append(scores.numel())
        return topk(scores, count, dim=dim)

    monkeypatch.setattr(torch, "topk", watched)
    rows, queries = torch.randn(50, 8, dtype=torch.float64), torch.randn(33, 8, dtype=torch.float64)
    whole = nearest(queries, rows, 5)
    monkeypatch.setattr(coterie.evaluation.neighbors, "CHUNK_ELEMENTS", 120)
    largest.clear()
    parts = nearest(queries, rows, 5)
    assert len(largest) > 1
    assert max(largest) <= 120
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[0], parts[0])


def test_more_neighbors_than_rows_and_a_class_seen_only_in_the_test() -> None:
    train, labels = torch.eye(3), torch.tensor([0, 1, 1])
    result = knn(train, labels, torch.eye(3), torch.tensor([0, 1, 5]), neighbors=(1, 20))
    assert result["k1_t0.07_top1"] == pytest.approx(200 / 3)
    assert result["k20_t0.1_top1"] == pytest.approx(200 / 3)


def test_a_tiny_temperature_does_not_overflow() -> None:
    result = knn(
        torch.eye(4),
        torch.arange(4),
        torch.eye(4),
        torch.arange(4),
        neighbors=(3,),
        temperatures=(1e-4,),
    )
    assert result["k3_t0.0001_top1"] == 100
