import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from coterie.errors import UserError
from coterie.evaluation.probes import clusters as module
from coterie.evaluation.probes.clusters import cluster_figures, clusters
from coterie.logger import NullLogger


def blobs(count: int, classes: int = 4, noise: float = 0.1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths around one direction a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    rows = torch.eye(classes, 8, dtype=torch.float64)[labels]
    rows = rows + noise * torch.randn(count, 8, generator=generator, dtype=torch.float64)
    return rows * (1 + 9 * torch.rand(count, 1, generator=generator, dtype=torch.float64)), labels


def test_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    groups = torch.tensor([5, 5, 7, 7, 7, 9, 9, 9])
    found = cluster_figures(labels, groups)
    # One group a class: 0 -> 5 (2 right), 1 -> 7 (2), 2 -> 9 (1). Most frequent in a group: 2 of 5, 2 of 7, 2 of 9.
    assert found["hungarian_accuracy"] == 100 * 5 / 8
    assert found["purity"] == 100 * 6 / 8
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, groups))
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels, groups))
    # The same two from their definitions.
    table = np.array([[2, 1, 0], [0, 2, 2], [0, 0, 1]]) / 8
    outer = table.sum(axis=1, keepdims=True) * table.sum(axis=0)
    information = sum(p * np.log(p / q) for p, q in zip(table.flat, outer.flat, strict=True) if p)
    entropies = [-(p * np.log(p)).sum() for p in (table.sum(axis=0), table.sum(axis=1))]
    assert found["nmi"] == pytest.approx(information / np.mean(entropies))
    pairs, rows, columns, everything = 3, 3 + 6 + 0, 1 + 3 + 3, 28  # pairs of images: in one cell, class, group; all
    expected = rows * columns / everything
    assert found["ari"] == pytest.approx((pairs - expected) / ((rows + columns) / 2 - expected))


def test_more_groups_than_classes_cost_accuracy_and_not_purity() -> None:
    labels = torch.arange(12) // 6
    found = cluster_figures(labels, torch.arange(12) // 3)
    assert (found["hungarian_accuracy"], found["purity"]) == (50, 100)
    found = cluster_figures(labels, torch.zeros(12, dtype=torch.int64))
    assert (found["hungarian_accuracy"], found["purity"], found["nmi"]) == (50, 50, 0)


def test_images_without_a_group_are_left_out_and_counted() -> None:
    labels, groups = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([3, -1, 4, 4, -1])
    found = cluster_figures(labels, groups)
    assert found.pop("ungrouped") == 2
    kept = cluster_figures(labels[groups >= 0], groups[groups >= 0])
    assert found == {name: kept[name] for name in found}
    with pytest.raises(UserError, match="not one image has a group"):
        cluster_figures(labels, torch.full((5,), -1))
    with pytest.raises(UserError, match="2 of 5 images of TEST have no label"):
        cluster_figures(groups, labels)


def test_kmeans_finds_what_is_there_whatever_the_lengths_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, train_labels), (test, test_labels) = blobs(200), blobs(80, seed=1)
    groups = torch.where(test_labels == 0, -1, test_labels // 2)
    found = clusters(train, train_labels, test, test_labels, groups=groups)
    assert {name: found[f"kmeans_{name}"] for name in ("nmi", "ari", "hungarian_accuracy", "purity")} == pytest.approx(
        {"nmi": 1, "ari": 1, "hungarian_accuracy": 100, "purity": 100}
    )
    own = cluster_figures(test_labels, groups)
    assert {name: found[f"groups_{name}"] for name in own} == own
    assert own["ungrouped"] == 20
    assert "kmeans_ungrouped" not in found
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", 60)
    assert clusters(train, train_labels, test, test_labels, groups=groups) == pytest.approx(found)


def test_labels_give_only_the_number_of_clusters() -> None:
    (train, labels), (test, test_labels) = blobs(120, noise=0.6), blobs(60, noise=0.6, seed=1)
    found = clusters(train, labels, test, test_labels, seed=3)
    assert "groups_nmi" not in found
    assert found == clusters(train, labels.flip(0), test, test_labels, seed=3)
    longer = torch.where(torch.arange(120) % 3 == 0, 500.0, 1.0)[:, None]  # nor does the length of a row count
    assert found == clusters(train * longer, labels, test, test_labels, seed=3)


def test_the_best_start_is_taken_by_the_mean_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = torch.eye(20, dtype=torch.float64).repeat(6, 1)
    noise = 0.05 * torch.randn(120, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.nn.functional.normalize(directions + noise, dim=1)

    def mean_cosine(starts: int) -> float:
        monkeypatch.setattr(module, "KMEANS_STARTS", starts)
        monkeypatch.setattr(module, "FINAL_ITERATIONS", 0)
        return float((rows @ module._centers(rows, 20, 0, NullLogger()).T).amax(dim=1).mean())

    found = [mean_cosine(starts) for starts in range(1, 9)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.01  # the first start is not the best of these


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x * torch.nan, y), "NaN"),
        (lambda x, y: (x, y - 1), "have no label"),
        (lambda x, y: (x, y * 0), "one class only"),
        (lambda x, y: (x, y.clamp(max=2)), "TRAIN has no image of"),
    ],
)
def test_bad_input_is_one_plain_line(spoil, message: str) -> None:
    train, labels = blobs(40)
    with pytest.raises(UserError, match=message) as caught:
        clusters(*spoil(train, labels), train, labels)
    assert "\n" not in str(caught.value)


def test_a_class_with_one_image_is_a_class() -> None:
    train, labels = blobs(41)
    train[40], labels[40] = 5 * torch.eye(8, dtype=torch.float64)[7], 4
    found = clusters(train, labels, train, labels)
    assert found["kmeans_purity"] > 70
