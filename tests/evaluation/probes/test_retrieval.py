import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.probes.retrieval import retrieval


def rows_of(count: int, seed: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    rows = torch.randn(count, 6, generator=generator, dtype=torch.float64) + F.one_hot(labels % 6, 6)
    return rows, labels


def oracle(gallery, gallery_labels, queries, query_labels, *, at=(1, 5, 10), same=False) -> dict[str, float]:
    """Query by query, with scikit-learn."""
    unit, unit_queries = (F.normalize(rows, dim=1).numpy() for rows in (gallery, queries))
    precisions, hits, left_out = [], [], 0
    for i, query in enumerate(unit_queries):
        others = np.arange(len(unit)) != i if same else np.ones(len(unit), dtype=bool)
        scores, right = (unit @ query)[others], (gallery_labels == query_labels[i]).numpy()[others]
        if not right.any():
            left_out += 1
            continue
        precisions.append(average_precision_score(right, scores))
        ranking = right[np.argsort(-scores)]
        hits.append([ranking[:k].any() for k in at])
    recall = dict(zip((f"recall_at_{k}" for k in at), 100 * np.mean(hits, axis=0), strict=True))
    return {"map": 100 * np.mean(precisions), **recall, "queries_left_out": left_out}


def test_average_precision_and_recall_by_hand() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [9.0], [2.0], [0.1]])
    found = retrieval(
        gallery, torch.tensor([1, 0, 1, 0]), torch.tensor([[3.0, 0.0]]), torch.tensor([0]), at=(1, 2, 3, 100)
    )
    assert found["map"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    assert [found[f"recall_at_{k}"] for k in (1, 2, 3, 100)] == [0, 100, 100, 100]
    assert found["queries_left_out"] == 0


def test_agrees_with_scikit_learn() -> None:
    gallery, queries = rows_of(150, 0), rows_of(70, 1, classes=7)  # two classes that the gallery has not
    found = retrieval(*gallery, *queries, at=(1, 3, 20))
    expected = oracle(*gallery, *queries, at=(1, 3, 20))
    assert found == pytest.approx(expected)
    assert 0 < found["queries_left_out"] < 70
    assert 0 < found["recall_at_1"] < found["recall_at_3"] < 100


def test_an_image_does_not_find_itself() -> None:
    rows, labels = rows_of(120, 2)
    labels[7] = 9  # a class of one image: nothing to find
    found = retrieval(rows, labels, rows, labels)
    assert found == pytest.approx(oracle(rows, labels, rows, labels, same=True))
    assert found["queries_left_out"] == 1
    assert found == retrieval(rows, labels, rows.clone(), labels.clone(), same=True)
    with_itself = retrieval(rows, labels, rows.clone(), labels)
    assert with_itself["recall_at_1"] == 100
    assert with_itself == pytest.approx(oracle(rows, labels, rows, labels))
    with pytest.raises(ValueError, match="cannot be the same"):
        retrieval(rows, labels, rows[:5], labels[:5], same=True)


def test_images_equally_near_share_the_last_place() -> None:
    gallery = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1])
    queries = (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    found = retrieval(gallery, labels, *queries, at=(1, 3, 4))
    assert found["map"] == pytest.approx(oracle(gallery, labels, *queries)["map"])
    assert found["map"] == pytest.approx(100 * (3 * 3 / 6 + 4 / 8) / 4)
    assert [found[f"recall_at_{k}"] for k in (1, 3, 4)] == [0, 0, 100]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert retrieval(gallery[order], labels[order], *queries, at=(1, 3, 4)) == found


@pytest.mark.parametrize("same", [False, True])
def test_chunks_bound_the_memory_and_change_nothing(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = rows_of(90, 3)
    queries = gallery if same else rows_of(40, 4)
    whole = retrieval(*gallery, *queries)
    largest, searchsorted = [], torch.searchsorted

    def watched(ranking: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        largest.append(ranking.numel())
        return searchsorted(ranking, values)

    monkeypatch.setattr(torch, "searchsorted", watched)
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", 8 * 90 * 7)
    assert retrieval(*gallery, *queries) == pytest.approx(whole)
    assert max(largest) <= 7 * 90


def test_bad_input_is_one_plain_line() -> None:
    rows, labels = rows_of(20, 5)
    missing = torch.where(labels == 2, -1, labels)
    with pytest.raises(UserError, match=r"of 20 images of TRAIN have no label"):
        retrieval(rows, missing, rows, labels)
    with pytest.raises(UserError, match=r"of 20 images of TEST have no label"):
        retrieval(rows, labels, rows, missing)
    with pytest.raises(UserError, match="NaN or infinity in 20 of 20 embeddings of TEST"):
        retrieval(rows, labels, rows / 0, labels)
    with pytest.raises(UserError, match="no query has another image"):
        retrieval(rows, labels, rows, labels + 10)
    with pytest.raises(UserError, match="no query has another image"):
        retrieval(rows, torch.arange(20), rows, torch.arange(20))
