"""A map of embeddings: images that a network finds alike lie close together on it."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from coterie.reporting.gallery import Picture

MOST_POINTS = 2_000
"""By default: t-SNE of so many takes about 4 s on one core, of 5,000 about 14 s."""
FEWEST_POINTS = 10
ROUNDS = 500  # of t-SNE
DIRECTIONS = 50  # that PCA leaves
PERPLEXITY = 30.0
COLORS = 10
CELLS = 24  # along a side of the map, each with room for one picture
SMALLEST_SPREAD = 1e-6
"""Embeddings that differ by less than this are one point, and have no map."""


@dataclass(frozen=True)
class Spot:
    """A picture on the map; x runs to the right and y down, from 0 to 1 and from 0 to the map's height."""

    x: float
    y: float
    color: int
    picture: Picture


@dataclass(frozen=True)
class Map:
    """Points in the plane, colored, and pictures of some of them.

    Attributes:
        note: what is seen.
        points: x to the right and y down, from 0 to 1 and from 0 to ``height``.
        colors: the number of each point's color; -1: none of those in the key.
        key: what the colors mean.
        spots: pictures at the places of some points, no two in one cell.
    """

    note: str
    points: Float[np.ndarray, "n 2"]
    colors: Int[np.ndarray, " n"]
    key: tuple[str, ...]
    spots: tuple[Spot, ...]

    @property
    def height(self) -> float:
        """In widths, rounded up to whole cells."""
        return max(1, math.ceil(float(self.points[:, 1].max()) * CELLS - 1e-9)) / CELLS

    @property
    def paths(self) -> list[tuple[int, str]]:
        """For each color, the points as one SVG path of dots, in hundredths of the side; the uncolored ones first."""
        drawn = []
        for color in range(-1, len(self.key)):
            places = 100 * self.points[self.colors == color]
            if len(places):
                drawn.append((color, "".join(f"M{x:.2f} {y:.2f}h0" for x, y in places)))
        return drawn


def lay_out(rows: Float[np.ndarray, "n d"], *, seed: int = 0) -> Float[np.ndarray, "n 2"] | None:
    """Place each row in the unit square, so that those that point the same way lie close together; the map begins at 0.

    PCA of the unit rows to 50 directions, then t-SNE (van der Maaten and Hinton 2008; Barnes-Hut, van der Maaten 2014)
    from the first two of them. The same rows and seed give the same map.

    Returns:
        None where there is nothing to lay out: fewer than 10 rows, or all rows (nearly) one point.
    """
    from sklearn.decomposition import PCA  # here: they take a second to import, and not every command draws a map
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(rows) < FEWEST_POINTS:
        return None
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if unit.std(axis=0).max() < SMALLEST_SPREAD:
        return None
    kept = min(DIRECTIONS, *unit.shape)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    start = "pca" if kept > 1 else "random"
    # one thread: sums in one order on any machine, and no waiting for each other 500 times where cores are shared
    with threadpool_limits(1), warnings.catch_warnings():
        # of directions without any spread, which is none of the reader's business
        warnings.simplefilter("ignore", RuntimeWarning)
        main = PCA(kept, random_state=seed).fit_transform(unit.astype(np.float32))
        tsne = TSNE(2, init=start, perplexity=perplexity, max_iter=ROUNDS, random_state=seed)
        placed = tsne.fit_transform(main)
    if not np.isfinite(placed).all():
        return None
    low, high = placed.min(axis=0), placed.max(axis=0)
    wide = np.argsort(low - high, kind="stable")  # the longer side across
    laid: np.ndarray = ((placed - low) / max(float((high - low).max()), 1e-12))[:, wide]
    return laid


def commonest(values: Int[np.ndarray, " n"], most: int = COLORS) -> tuple[Int[np.ndarray, " n"], list[int]]:
    """Number the ``most`` commonest values 0, 1, 2 ... in the order of the values; -1: another value, or a negative one."""
    known, counts = np.unique(values[values >= 0], return_counts=True)
    kept = np.sort(known[np.argsort(-counts, kind="stable")[:most]])
    if not len(kept):
        return np.full(len(values), -1), []
    place = np.searchsorted(kept, values).clip(0, len(kept) - 1)
    return np.where(kept[place] == values, place, -1), kept.tolist()


def pinned(points: Float[np.ndarray, "n 2"], cells: int = CELLS) -> list[int]:
    """Points that have a cell to themselves: of each cell that holds any, the one nearest to its middle."""
    place = np.minimum((points * cells).astype(int), cells - 1)
    far = np.abs(points * cells - place - 0.5).max(axis=1)
    cell = place[:, 1] * cells + place[:, 0]
    order = np.lexsort((far, cell))
    first = np.flatnonzero(np.diff(cell[order], prepend=-1))
    return [int(order[position]) for position in first]


def embedding_map(
    rows: Float[np.ndarray, "n d"],
    values: Int[np.ndarray, " n"],
    names: Callable[[int], str],
    show: Callable[[int], Picture],
    note: str,
    *,
    seed: int = 0,
) -> Map | None:
    """The map of some embeddings, colored by their labels or groups; None where :func:`lay_out` finds none.

    Args:
        rows: the embeddings.
        values: label or group of each, -1 for none.
        names: says what a value is called.
        show: makes the picture of a row.
        note: below the title.
        seed: of t-SNE.
    """
    points = lay_out(rows, seed=seed)
    if points is None:
        return None
    colors, kept = commonest(values)
    size = 1 / CELLS
    spots = []
    for row in pinned(points):
        cell = np.minimum((points[row] * CELLS).astype(int), CELLS - 1)
        x, y = (float(each) for each in (cell + 0.5) * size)
        spots.append(Spot(x, y, int(colors[row]), show(row)))
    key: Sequence[str] = [names(value) for value in kept]
    return Map(note, points, colors, tuple(key), tuple(spots))
