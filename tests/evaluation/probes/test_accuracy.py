import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from coterie.evaluation.probes.accuracy import accuracies


def test_accuracies_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (7 * torch.rand(200, generator=generator).square()).long()  # classes of unequal size
    scores = torch.randn(200, 7, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 7)
    right = scores.topk(5, dim=1).indices == labels[:, None]
    found = accuracies(right[:, 0], right.any(dim=1), labels)
    assert found == {
        "top1": pytest.approx(100 * top_k_accuracy_score(labels, scores, k=1)),
        "top5": pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5)),
        "mean_per_class": pytest.approx(100 * balanced_accuracy_score(labels, scores.argmax(dim=1))),
    }
    assert found["top1"] != pytest.approx(found["mean_per_class"], abs=1)


def test_classes_that_do_not_occur_do_not_count() -> None:
    labels = torch.tensor([1, 1, 1, 4])
    right = torch.tensor([True, True, False, True])
    found = accuracies(right, right, labels)
    assert found["top1"] == 75
    assert found["mean_per_class"] == pytest.approx(100 * (2 / 3 + 1) / 2)
