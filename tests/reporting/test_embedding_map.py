import numpy as np
import pytest

from coterie.reporting.embedding_map import CELLS, map_embeddings, number_most_frequent, one_point_per_cell, tsne_layout
from coterie.reporting.gallery import Picture


def clusters(count=120, kinds=3, width=16, noise=0.1):
    draws = np.random.default_rng(1)
    kind = np.arange(count) % kinds
    rows = 3 * np.eye(kinds, width)[kind] + noise * draws.standard_normal((count, width))
    return rows.astype(np.float32), kind


def gray(row):
    return Picture(np.full((8, 8), row % 256, np.uint8), caption=str(row))


def test_similar_rows_lie_together():
    rows, kind = clusters()
    placed = tsne_layout(rows)
    far = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (kind[far.argmin(axis=1)] == kind).mean() > 0.98
    assert placed.min(axis=0).tolist() == [0, 0]
    assert placed[:, 0].max() == pytest.approx(1)
    assert placed[:, 1].max() <= 1


def test_the_length_of_a_row_does_not_matter_and_a_seed_gives_the_same_map():
    rows, _ = clusters()
    scale = np.random.default_rng(2).uniform(0.1, 10, (len(rows), 1)).astype(np.float32)
    assert np.array_equal(tsne_layout(rows), tsne_layout(rows))
    assert np.allclose(tsne_layout(rows)[:5], tsne_layout(rows * 4)[:5])
    far = np.linalg.norm(tsne_layout(rows * scale)[:, None] - tsne_layout(rows * scale)[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (clusters()[1][far.argmin(axis=1)] == clusters()[1]).mean() > 0.98


@pytest.mark.parametrize(
    "rows",
    [np.ones((40, 8), np.float32), np.zeros((40, 8), np.float32), np.eye(9, dtype=np.float32), np.ones((0, 8), np.float32)],
    ids=["one point", "zeros", "too few", "none"],
)  # fmt: skip
def test_one_point_or_too_few_rows_have_no_layout(rows):
    assert tsne_layout(rows) is None


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_embeddings_have_a_layout_too(width):
    rows = np.random.default_rng(0).standard_normal((30, width)).astype(np.float32)
    placed = tsne_layout(rows)
    assert placed.shape == (30, 2)
    assert np.isfinite(placed).all()


def test_many_embeddings_at_two_points_have_a_layout():
    rows = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    placed = tsne_layout(rows)
    assert np.isfinite(placed).all()


def test_the_most_frequent_values_have_colors():
    values = np.array([7, 7, 7, 3, 3, 9, -1, 5, 5])
    colors, kept = number_most_frequent(values, 3)
    assert kept == [3, 5, 7]
    assert colors.tolist() == [2, 2, 2, 0, 0, -1, -1, 1, 1]
    assert number_most_frequent(np.full(4, -1))[1] == []


def test_each_cell_takes_the_point_nearest_to_its_middle():
    points = np.array([[0.1, 0.1], [0.24, 0.26], [0.9, 0.1], [1.0, 1.0]])
    assert one_point_per_cell(points, 2) == [1, 2, 3]


def test_a_map_has_a_legend_and_no_two_pictures_in_one_place():
    rows, kind = clusters()
    drawn = map_embeddings(rows, kind, lambda value: f"kind {value}", gray, "note")
    assert drawn.legend == ("kind 0", "kind 1", "kind 2")
    assert len({(round(spot.x, 4), round(spot.y, 4)) for spot in drawn.spots}) == len(drawn.spots)
    assert all(0 < spot.x < 1 and 0 < spot.y < drawn.height for spot in drawn.spots)
    assert all(kind[int(spot.picture.caption)] == spot.color for spot in drawn.spots)
    assert drawn.height * CELLS == pytest.approx(round(drawn.height * CELLS))
    assert drawn.points[:, 1].max() <= drawn.height <= drawn.points[:, 1].max() + 1 / CELLS
    dots = sum(path.count("M") for _, path in drawn.paths)
    assert dots == len(rows)
