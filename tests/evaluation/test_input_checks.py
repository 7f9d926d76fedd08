import pytest
import torch

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_finite, check_labeled_features, check_labels


@pytest.mark.parametrize("elements", [32_000_000, 8])
def test_embeddings_that_are_not_finite_are_counted_whatever_the_chunk(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", elements)
    rows = torch.zeros(10, 4)
    check_finite(rows, "TRAIN")
    rows[2, 1], rows[2, 2], rows[7, 0] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(UserError, match=r"^NaN or infinity in 2 of 10 embeddings of TRAIN: "):
        check_finite(rows, "TRAIN")


def test_large_finite_embeddings_pass() -> None:
    rows = torch.full((4, 4), 3e38)
    assert rows.sum().isinf()
    check_finite(rows, "TRAIN")


def test_missing_labels_and_empty_sets_are_refused() -> None:
    check_labels(torch.tensor([0, 3]), "TEST")
    with pytest.raises(UserError, match="2 of 3 images of TEST have no label"):
        check_labels(torch.tensor([-1, 0, -1]), "TEST")
    with pytest.raises(UserError, match="TEST has no images"):
        check_labels(torch.tensor([], dtype=torch.long), "TEST")


def test_features_and_labels_that_no_classifier_can_use_are_refused() -> None:
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
