import numpy as np
import pytest

from coterie.reporting.embedding_map import CELLS, commonest, embedding_map, lay_out, pinned
from coterie.reporting.gallery import Picture


def clusters(count=120, kinds=3, width=16, noise=0.1):
    draws = np.random.default_rng(1)
    kind = np.arange(count) % kinds
    rows = 3 * np.eye(kinds, width)[kind] + noise * draws.standard_normal((count, width))
    return rows.astype(np.float32), kind


def gray(row):
    return Picture(np.full((8, 8), row % 256, np.uint8), caption=str(row))


def test_what_is_alike_lies_together():
    rows, kind = clusters()
    placed = lay_out(rows)
    far = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (kind[far.argmin(axis=1)] == kind).mean() > 0.98
    assert placed.min(axis=0).tolist() == [0, 0]
    assert placed[:, 0].max() == pytest.approx(1)
    assert placed[:, 1].max() <= 1


def test_length_says_nothing_and_the_same_seed_gives_the_same_map():
    rows, _ = clusters()
    scale = np.random.default_rng(2).uniform(0.1, 10, (len(rows), 1)).astype(np.float32)
    assert np.array_equal(lay_out(rows), lay_out(rows))
    assert np.allclose(lay_out(rows)[:5], lay_out(rows * 4)[:5])
    far = np.linalg.norm(lay_out(rows * scale)[:, None] - lay_out(rows * scale)[None], axis=2)
    np.fill_diagonal(far, np.inf)
    assert (clusters()[1][far.argmin(axis=1)] == clusters()[1]).mean() > 0.98


@pytest.mark.parametrize(
    "rows",
    [np.ones((40, 8), np.float32), np.zeros((40, 8), np.float32), np.eye(9, dtype=np.float32), np.ones((0, 8), np.float32)],
    ids=["one point", "zeros", "too few", "none"],
)  # fmt: skip
def test_where_there_is_nothing_to_lay_out_there_is_no_map(rows):
    assert lay_out(rows) is None


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_embeddings_have_a_map_too(width):
    rows = np.random.default_rng(0).standard_normal((30, width)).astype(np.float32)
    placed = lay_out(rows)
    assert placed.shape == (30, 2)
    assert np.isfinite(placed).all()


def test_many_embeddings_at_two_points_have_a_map():
    rows = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    placed = lay_out(rows)
    assert np.isfinite(placed).all()


def test_the_commonest_values_have_colors():
    values = np.array([7, 7, 7, 3, 3, 9, -1, 5, 5])
    colors, kept = commonest(values, 3)
    assert kept == [3, 5, 7]
    assert colors.tolist() == [2, 2, 2, 0, 0, -1, -1, 1, 1]
    assert commonest(np.full(4, -1))[1] == []


def test_each_cell_pins_the_point_nearest_to_its_middle():
    points = np.array([[0.1, 0.1], [0.24, 0.26], [0.9, 0.1], [1.0, 1.0]])
    assert pinned(points, 2) == [1, 2, 3]


def test_a_map_has_a_key_and_no_two_pictures_in_one_place():
    rows, kind = clusters()
    drawn = embedding_map(rows, kind, lambda value: f"kind {value}", gray, "note")
    assert drawn.key == ("kind 0", "kind 1", "kind 2")
    assert len({(round(spot.x, 4), round(spot.y, 4)) for spot in drawn.spots}) == len(drawn.spots)
    assert all(0 < spot.x < 1 and 0 < spot.y < drawn.height for spot in drawn.spots)
    assert all(kind[int(spot.picture.caption)] == spot.color for spot in drawn.spots)
    assert drawn.height * CELLS == pytest.approx(round(drawn.height * CELLS))
    assert drawn.points[:, 1].max() <= drawn.height <= drawn.points[:, 1].max() + 1 / CELLS
    dots = sum(path.count("M") for _, path in drawn.paths)
    assert dots == len(rows)
