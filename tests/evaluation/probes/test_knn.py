from functools import partial

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.probes.knn import K_VALUES, TEMPERATURES, knn, knn_predictions

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def four(train: int = 300, test: int = 80, classes: int = 7) -> Four:
    """Overlapping classes in float64, with rows of different lengths."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (train + test,), generator=generator)
    rows = torch.randn(train + test, 12, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, 12)
    rows = rows * (1 + 9 * torch.rand(train + test, 1, generator=generator, dtype=torch.float64))
    return rows[:train], labels[:train], rows[train:], labels[train:]


def vote_weights(distances: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp((1 - distances) / temperature)


def test_predictions_and_accuracy_are_those_of_scikit_learn() -> None:
    train, labels, test, truth = four()
    for k, temperature in ((1, 0.07), (20, 0.07), (20, 1.0), (150, 0.1)):
        weights = partial(vote_weights, temperature=temperature)
        oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        oracle.fit(train.numpy(), labels.numpy())
        predictions = knn_predictions(train, labels, test, k=k, temperature=temperature)
        assert predictions.tolist() == oracle.predict(test.numpy()).tolist()
        figures = knn(train, labels, test, truth, neighbors=[k], temperatures=[temperature])
        assert figures[f"k{k}_t{temperature:g}_top1"] == pytest.approx(100 * oracle.score(test.numpy(), truth.numpy()))
    assert knn(train, labels, test, truth)["k1_t0.07_top5"] == knn(train, labels, test, truth)["k1_t0.07_top1"]
    best = torch.from_numpy(oracle.predict_proba(test.numpy())).topk(5, dim=1)  # k = 150: all of the five have votes
    assert best.values.min() > 0
    in_top5 = (best.indices == truth[:, None]).any(dim=1).double().mean()
    assert figures["k150_t0.1_top5"] == pytest.approx(100 * float(in_top5))
    assert 20 < figures["k150_t0.1_top1"] < figures["k150_t0.1_top5"] < 100


def test_every_k_and_temperature_is_measured_as_if_alone() -> None:
    data = four()
    together = knn(*data)
    assert len(together) == 2 * len(K_VALUES) * len(TEMPERATURES)
    alone: dict[str, float] = {}
    for k in K_VALUES:
        for temperature in TEMPERATURES:
            alone |= knn(*data, neighbors=[k], temperatures=[temperature])
    assert together == alone
    assert knn(3 * data[0], data[1], 0.1 * data[2], data[3]) == together  # the length of a row does not matter


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = four()
    whole = knn(*data)
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", 300 * 7)
    assert knn(*data) == whole


def test_more_neighbors_than_rows_and_a_class_seen_only_in_the_test() -> None:
    train, labels = torch.eye(3), torch.tensor([0, 1, 1])
    result = knn(train, labels, torch.eye(3), torch.tensor([0, 1, 5]), neighbors=(1, 20))
    assert result["k1_t0.07_top1"] == pytest.approx(200 / 3)
    assert result["k20_t0.1_top1"] == pytest.approx(200 / 3)


def test_a_tiny_temperature_does_not_overflow() -> None:
    classes = torch.arange(4)
    result = knn(torch.eye(4), classes, torch.eye(4), classes, neighbors=(3,), temperatures=(1e-4,))
    assert result["k3_t0.0001_top1"] == 100


def test_bad_input_is_refused() -> None:
    train, labels, test, truth = four(20, 5)
    with pytest.raises(UserError, match="NaN or infinity in 5 of 5 embeddings of TEST"):
        knn(train, labels, test * torch.nan, truth)
    with pytest.raises(UserError, match="20 of 20 images of TRAIN have no label"):
        knn(train, torch.full((20,), -1), test, truth)
