import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

import coterie.evaluation.probes.linear as module
from coterie.errors import UserError
from coterie.evaluation.probes.linear import held_out, linear, linear_published, linear_sgd
from coterie.evaluation.probes.recipe import LINEAR_RECIPE
from coterie.evaluation.probes.standardize import Standardizer
from coterie.logger import NullLogger

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def four(train: int = 400, test: int = 200, classes: int = 7, noise: float = 2.0) -> Four:
    """Overlapping classes of unequal size, numbered with gaps, with features of unequal scale."""
    generator = torch.Generator().manual_seed(2)
    centers = torch.randn(classes, 12, generator=generator)
    labels = (classes * torch.rand(train + test, generator=generator).square()).long()
    labels[:classes] = torch.arange(classes)
    rows = centers[labels] + noise * torch.randn(train + test, 12, generator=generator)
    rows = rows * torch.logspace(-1, 1, 12) + 3
    return rows[:train], 3 * labels[:train], rows[train:], 3 * labels[train:]


def test_accuracies_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, train_labels, test_rows, test_labels = four()
    default = linear(rows, train_labels, test_rows, test_labels)
    monkeypatch.setattr(module, "FINAL_TOLERANCE", 1e-8)
    train, test = rows.double(), test_rows.double()
    result = linear(train, train_labels, test, test_labels)
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=1 / result["penalty"], tol=1e-8, max_iter=5000)
    oracle.fit(scaler.transform(train.numpy()), train_labels.numpy())
    scores = oracle.decision_function(scaler.transform(test.numpy()))
    # Both fits are accurate to about 1e-6, so that they agree on every row whose scores are further apart than that.
    descending = -np.sort(-scores, axis=1)
    margins = np.minimum(descending[:, 0] - descending[:, 1], descending[:, 4] - descending[:, 5])
    assert margins.min() > 2e-5
    guesses, truth = oracle.classes_[scores.argmax(axis=1)], test_labels.numpy()
    assert result["top1"] == pytest.approx(100 * np.mean(guesses == truth))
    assert result["top5"] == pytest.approx(100 * top_k_accuracy_score(truth, scores, k=5, labels=oracle.classes_))
    assert result["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(truth, guesses))
    assert 50 < result["top1"] < result["top5"] <= 100
    assert set(result) == {"top1", "top5", "mean_per_class", "penalty", "held_out_top1"}
    # At the default tolerance, and in float32, scores are accurate to less than 0.1.
    assert abs(default["top1"] - result["top1"]) <= 100 * np.mean(margins < 0.2)


def test_the_penalty_is_chosen_without_the_test_rows() -> None:
    train, train_labels, test, test_labels = four()
    chosen = linear(train, train_labels, test, test_labels)
    other = linear(train, train_labels, -10 * test, test_labels.flip(0))
    assert (chosen["penalty"], chosen["held_out_top1"]) == (other["penalty"], other["held_out_top1"])
    assert chosen["top1"] != other["top1"]


def test_held_out_rows_are_not_trained_on() -> None:
    """Random labels: a classifier with more features than rows fits all that it was trained on, and no others."""
    rows, labels = torch.randn(100, 150), torch.arange(100) % 5
    assert linear(rows, labels, rows, labels, penalties=[1e-2, 1e-3])["top1"] == 100
    assert linear(rows, labels, rows, labels, penalties=[1e-2, 1e-3])["held_out_top1"] < 50
    result = linear_sgd(rows, labels, rows, labels, learning_rates=[0.1, 0.2], epochs=50)
    assert (result["top1"] == 100, result["held_out_top1"] < 50) == (True, True)


def test_the_chosen_penalty_is_the_best_on_the_held_out_rows() -> None:
    data = four(train=60, noise=4.0)
    alone = {strength: linear(*data, penalties=[strength, strength])["held_out_top1"] for strength in (1e3, 10.0, 1e-3)}
    result = linear(*data, penalties=[1e-3, 10.0, 1e3])
    assert len(set(alone.values())) > 1
    assert result["held_out_top1"] == max(alone.values())
    assert alone[round(result["penalty"], 6)] == max(alone.values())


@pytest.mark.parametrize("probe", [linear, linear_published])
def test_a_seed_gives_the_same_figures(probe, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    data = four(train=100)
    assert probe(*data, seed=5) == probe(*data, seed=5)


def test_sgd_is_that_of_torch() -> None:
    train, train_labels, _, _ = four(train=600)
    train, numbers = train.double(), train_labels // 3
    kept = torch.arange(600) % 4 > 0
    rates, epochs = [2**-10, 2**-7], 4  # exact in float32, in which they are kept
    model = module._sgd(
        train,
        numbers,
        7,
        rates,
        standardizer=Standardizer.identity(train),
        index=kept.nonzero()[:, 0],
        recipe=replace(LINEAR_RECIPE, epochs=epochs),
        seed=9,
        logger=None,
    )
    for head, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(9)
        layer = torch.nn.Linear(12, 7, dtype=torch.float64)
        first = 0.01 * torch.randn(7, 1, 12, generator=generator, dtype=torch.float64)
        layer.weight.data, layer.bias.data = first[:, 0].clone(), torch.zeros(7, dtype=torch.float64)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, weight_decay=1e-6)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
        rows, truth = train[kept], numbers[kept]
        for _ in range(epochs):
            for batch in torch.randperm(len(rows), generator=generator).split(256):
                optimizer.zero_grad()
                F.cross_entropy(layer(rows[batch]), truth[batch]).backward()
                optimizer.step()
            schedule.step()
        # A rounding error grows in each of the steps at most by the momentum, and by the rate times the largest curvature,
        # which for a softmax is half the mean square of a row.
        growth = 1 + 0.9 + rate * float(rows.square().sum(dim=1).mean()) / 2
        allowed = (
            10 * torch.finfo(torch.float64).eps * growth ** (2 * epochs) * float(layer.weight.detach().abs().max())
        )
        assert allowed < 1e-6
        torch.testing.assert_close(model.weights[:, head], layer.weight.detach(), atol=allowed, rtol=0)
        torch.testing.assert_close(model.bias[:, head], layer.bias.detach(), atol=allowed, rtol=0)


def test_the_published_protocol() -> None:
    class Epochs(NullLogger):
        seen = 0

        def progress(self, items, total, what):  # type: ignore[no-untyped-def]
            for item in items:
                self.seen += 1
                yield item

    data, epochs = four(train=100, test=50), Epochs()
    result = linear_published(*data, logger=epochs)
    assert epochs.seen == 100
    assert result["learning_rate"] == 0.3
    assert set(result) == {"top1", "top5", "mean_per_class", "learning_rate"}
    assert (module.SGD_MOMENTUM, module.SGD_INITIAL_STD) == (0.9, 0.01)  # the rest: test_recipe.py


def test_a_sweep_of_learning_rates_skips_those_that_fail() -> None:
    data = four()
    result = linear_sgd(*data, learning_rates=[1e-7, 0.03, 1e30], epochs=50, standardize=True)
    assert result["learning_rate"] == 0.03
    assert result["top1"] == pytest.approx(linear(*data)["top1"], abs=5)


def test_sgd_that_diverges_is_an_error() -> None:
    with pytest.raises(UserError, match=r"SGD diverges .* learning rate of 1e\+30"):
        linear_sgd(*four(), learning_rates=[1e30], epochs=5)


def test_a_class_with_one_row_is_trained_on() -> None:
    rows = torch.eye(4).repeat_interleave(torch.tensor([5, 5, 5, 1]), dim=0)
    labels = torch.arange(4).repeat_interleave(torch.tensor([5, 5, 5, 1]))
    assert linear(rows, labels, torch.eye(4), torch.arange(4), penalties=[1e-2])["top1"] == 100
    assert linear(rows, labels, torch.eye(4), torch.arange(4))["held_out_top1"] == 100
    assert linear_published(rows, labels, torch.eye(4), torch.arange(4))["top1"] == 100


def test_one_row_per_class() -> None:
    rows, labels = torch.eye(3), torch.arange(3)
    result = linear(rows, labels, rows, labels)
    assert result["top1"] == 100
    assert "held_out_top1" not in result
    assert result["penalty"] == 100
    with pytest.raises(UserError, match="no learning rate can be chosen"):
        linear_sgd(rows, labels, rows, labels, learning_rates=[0.1, 0.3])


def test_two_classes_and_a_feature_that_never_changes() -> None:
    train, labels, test, truth = four(classes=2)
    train[:, 0] = test[:, 0] = 7.0
    result = linear(train, labels, test, truth)
    assert result["top5"] == 100
    assert math.isfinite(result["top1"])


def test_more_features_than_rows() -> None:
    rows = torch.randn(12, 300) + 2 * (torch.arange(12) % 3 == 0)[:, None]
    labels = (torch.arange(12) % 3 == 0).long()
    assert linear(rows, labels, rows, labels)["top1"] == 100


@pytest.mark.parametrize("probe", [linear, linear_published])
def test_bad_input_is_refused(probe) -> None:  # type: ignore[no-untyped-def]
    train, labels, test, truth = four(train=50, test=20)
    with pytest.raises(UserError, match="NaN or infinity in 20 of 20 embeddings of TEST"):
        probe(train, labels, test * torch.inf, truth)
    with pytest.raises(UserError, match="have no label"):
        probe(train, labels - 1, test, truth)
    with pytest.raises(UserError, match="20 images of TEST belong to classes that TRAIN has no image of"):
        probe(train, labels, test, truth + 1)
    with pytest.raises(UserError, match="one class only"):
        probe(train, labels * 0, test, truth * 0)


def test_the_same_share_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [4])[torch.randperm(63)]
    held = held_out(labels, seed=3)
    assert labels[held].bincount(minlength=5).tolist() == [10, 2, 1, 0, 0]
    assert torch.equal(held, held_out(labels, seed=3))
    assert not torch.equal(held, held_out(labels, seed=4))


def test_no_class_loses_its_only_row() -> None:
    assert not held_out(torch.tensor([0, 1, 2])).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_probes_on_a_gpu() -> None:
    data = four()
    there = tuple(each.cuda() for each in data)
    for probe in (linear, linear_published):
        here, found = probe(*data), probe(*there)
        assert found["top1"] == pytest.approx(here["top1"], abs=1)
