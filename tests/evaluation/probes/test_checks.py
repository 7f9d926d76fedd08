import pytest
import torch

import coterie.evaluation.neighbors
from coterie.errors import UserError
from coterie.evaluation.probes.checks import check_finite, check_labeled_features, check_labels, held_out


def test_embeddings_that_are_not_finite_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.zeros(10, 4)
    check_finite(rows, "TRAIN")
    rows[2, 1], rows[2, 2], rows[7, 0] = torch.nan, torch.inf, -torch.inf
    for elements in (32_000_000, 8):
        monkeypatch.setattr(coterie.evaluation.neighbors, "CHUNK_ELEMENTS", elements)
        with pytest.raises(UserError, match=r"^NaN or infinity in 2 of 10 embeddings of TRAIN: "):
            check_finite(rows, "TRAIN")


def test_large_finite_embeddings_pass() -> None:
    check_finite(torch.full((4, 4), 3e38), "TRAIN")


def test_missing_labels_and_empty_sets_are_refused() -> None:
    check_labels(torch.tensor([0, 3]), "TEST")
    with pytest.raises(UserError, match="2 of 3 images of TEST have no label"):
        check_labels(torch.tensor([-1, 0, -1]), "TEST")
    with pytest.raises(UserError, match="TEST has no images"):
        check_labels(torch.tensor([], dtype=torch.long), "TEST")


def test_what_no_classifier_can_learn_is_refused() -> None:
    rows = torch.randn(4, 3)
    labels = torch.tensor([0, 0, 2, 2])
    check_labeled_features(rows, labels, rows, labels)
    with pytest.raises(UserError, match="TRAIN has one class only"):
        check_labeled_features(rows, torch.zeros(4, dtype=torch.long), rows, labels)
    with pytest.raises(UserError, match="1 images of TEST belong to classes that TRAIN has no image of"):
        check_labeled_features(rows, labels, rows, torch.tensor([0, 1, 2, 2]))
    with pytest.raises(UserError, match="embeddings of TEST"):
        check_labeled_features(rows, labels, rows * torch.nan, labels)
    with pytest.raises(UserError, match="images of TRAIN have no label"):
        check_labeled_features(rows, labels - 1, rows, labels)


def test_the_same_share_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [4])[torch.randperm(63)]
    held = held_out(labels, seed=3)
    assert labels[held].bincount(minlength=5).tolist() == [10, 2, 1, 0, 0]
    assert torch.equal(held, held_out(labels, seed=3))
    assert not torch.equal(held, held_out(labels, seed=4))


def test_no_class_loses_its_only_image() -> None:
    assert not held_out(torch.tensor([0, 1, 2])).any()
