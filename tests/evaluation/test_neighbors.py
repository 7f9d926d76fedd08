import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.neighbors import nearest, vote


def unit(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=1)


def test_nearest_agrees_with_scikit_learn() -> None:
    rows, queries = unit(300, 0), unit(40, 1)
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(rows.numpy())
    distance, position = oracle.kneighbors(queries.numpy())
    similarity, found = nearest(queries, rows, 7)
    np.testing.assert_array_equal(found.numpy(), position)
    np.testing.assert_allclose(1 - similarity.numpy(), distance, atol=1e-12)


def test_chunks_bound_the_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, topk = [], torch.topk

    def watched(scores: Tensor, count: int, dim: int) -> object:
        largest.append(scores.numel())
        return topk(scores, count, dim=dim)

    monkeypatch.setattr(torch, "topk", watched)
    rows, queries = unit(50, 2), unit(33, 3)
    whole = nearest(queries, rows, 5)
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", 120)
    largest.clear()
    parts = nearest(queries, rows, 5)
    assert len(largest) > 1
    assert max(largest) <= 120
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[0], parts[0])


def test_memory_that_is_given_is_used_and_changes_nothing() -> None:
    rows, queries = unit(50, 2), unit(33, 3)
    space = torch.full((33, 50), torch.nan, dtype=torch.float64)
    expected, found = nearest(queries, rows, 5), nearest(queries, rows, 5, space=space)
    assert all(map(torch.equal, expected, found))
    torch.testing.assert_close(space, queries @ rows.T)


def test_more_neighbors_than_rows_are_all_rows() -> None:
    similarities, positions = nearest(torch.eye(3)[:1], torch.eye(3), 20)
    assert similarities.tolist() == [[1, 0, 0]]
    assert sorted(positions[0].tolist()) == [0, 1, 2]
    assert positions[0, 0] == 0


def test_votes_are_weighted_by_similarity() -> None:
    similarities, labels = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.5, 0.5]]), torch.tensor([[2, 0, 0], [1, 1, 3]])
    found = vote(similarities, labels, classes=4, temperature=0.5)
    weights = ((similarities - similarities[:, :1]) / 0.5).exp()
    expected = torch.zeros(2, 4)
    for query in range(2):
        for weight, label in zip(weights[query], labels[query], strict=True):
            expected[query, label] += weight
    torch.testing.assert_close(found, expected)
    assert found.argmax(dim=1).tolist() == [0, 1]  # two votes outweigh a nearer one
    assert vote(similarities, labels, 4, temperature=0.05).argmax(dim=1)[0] == 2  # not at a low temperature


def test_a_tiny_temperature_does_not_overflow() -> None:
    found = vote(torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([[0, 1, 1]]), classes=2, temperature=1e-4)
    assert found.tolist() == [[1, 0]]
