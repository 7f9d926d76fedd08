import pytest
import torch
from torch.nn import functional as F

from coterie.grouping.kmeans import group_means, moved_centers, nearest_centers, random_starts, spherical_kmeans


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_means_of_the_rows_of_each_group() -> None:
    rows, labels = unit(50, 6), torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
    means, counts = group_means(rows, labels, 6)
    for group in range(4):
        torch.testing.assert_close(means[group], rows[labels == group].mean(dim=0))
        assert counts[group] == (labels == group).sum()
    assert not means[4:].any()
    assert not counts[4:].any()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers = unit(301, 5), unit(7, 5, seed=1)
    whole = nearest_centers(rows, centers)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 70)
    assert torch.equal(nearest_centers(rows, centers), whole)


def test_kmeans_finds_the_clusters_and_keeps_a_center_without_rows() -> None:
    truth = torch.eye(4, 8, dtype=torch.float64)
    rows = F.normalize(truth.repeat_interleave(20, dim=0) + 0.05 * unit(80, 8), dim=1)
    found = spherical_kmeans(rows, rows[[0, 20, 40, 60]])
    assert (found * truth).sum(dim=1).min() > 0.99
    far = -truth[:1]
    kept = spherical_kmeans(rows, torch.cat([rows[[0, 20, 40, 60]], far]))
    torch.testing.assert_close(kept[4:], far)
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_a_group_without_rows_stays_and_momentum_one_moves_nothing() -> None:
    centers, rows = unit(5, 4), unit(9, 4, seed=2)
    labels = torch.zeros(9, dtype=torch.int64)
    moved = moved_centers(centers, rows, labels, 0.5)
    assert torch.equal(moved[1:], centers[1:])
    torch.testing.assert_close(moved[0], F.normalize(0.5 * centers[0] + 0.5 * rows.mean(dim=0), dim=0))
    torch.testing.assert_close(moved_centers(centers, rows, labels, 1.0), centers)


def test_the_gradient_is_scaled_by_one_minus_momentum() -> None:
    centers = torch.eye(3, dtype=torch.float64)
    size = {}
    for momentum in (0.9, 0.99):
        rows = unit(6, 3, seed=3).requires_grad_()
        moved_centers(centers, rows, torch.arange(6) % 3, momentum).sum().backward()
        size[momentum] = rows.grad.norm().item()
    assert 8 < size[0.9] / size[0.99] < 12


def test_starts_are_different_rows_and_a_pure_function() -> None:
    first = random_starts(100, 30, seed=1, step=7, head=0)
    assert torch.equal(first, random_starts(100, 30, seed=1, step=7, head=0))
    assert len(set(first.tolist())) == 30
    others = [random_starts(100, 30, 2, 7, 0), random_starts(100, 30, 1, 8, 0), random_starts(100, 30, 1, 7, 1)]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_counted_and_summed_in_float32(dtype: torch.dtype) -> None:
    """In bfloat16 a count ends at 256, and a sum of ones too."""
    means, counts = group_means(torch.ones(5000, 3, dtype=dtype), torch.arange(5000) % 2, 2)
    assert means.dtype == counts.dtype == torch.float32
    assert counts.tolist() == [2500.0, 2500.0]
    assert torch.equal(means, torch.ones(2, 3))
