"""A map of embeddings: images that a network finds similar lie close together on it."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from coterie.reporting.gallery import Picture

MAX_MAP_POINTS = 2_000
"""By default: t-SNE takes about 2 s for this many on one core."""
MIN_MAP_POINTS = 10
PCA_COMPONENTS = 50
TSNE_ITERATIONS = 350
TSNE_ANGLE = 0.8
"""With 350 iterations this takes half the time of scikit-learn's 0.5 and 500, for maps as faithful (``docs/log.md``)."""
TSNE_PERPLEXITY = 30.0
MAX_COLORS = 10
CELLS = 24  # along a side of the map, each with room for one picture
MIN_DEVIATION = 1e-6
"""Embeddings that differ by less than this are one point, and have no map."""


@dataclass(frozen=True)
class Spot:
    """A picture on the map: x from left (0) to right (1), y downwards from 0 to the height of the map."""

    x: float
    y: float
    color: int
    picture: Picture


@dataclass(frozen=True)
class EmbeddingMap:
    """Colored points in the plane, and pictures of some of them.

    Attributes:
        note: explains the map.
        points: x from left (0) to right (1), y downwards from 0 to ``height``.
        colors: number of each point's color; -1: none of those in the legend.
        legend: what the colors mean.
        spots: pictures at the positions of some points, at most one in each cell.
    """

    note: str
    points: Float[np.ndarray, "n 2"]
    colors: Int[np.ndarray, " n"]
    legend: tuple[str, ...]
    spots: tuple[Spot, ...]

    @property
    def height(self) -> float:
        """Height of the map relative to its width, rounded up to whole cells."""
        return max(1, math.ceil(float(self.points[:, 1].max()) * CELLS - 1e-9)) / CELLS

    @property
    def paths(self) -> list[tuple[int, str]]:
        """(color, SVG path of a dot for each point, in percent of the width); points without a color first."""
        drawn = []
        for color in range(-1, len(self.legend)):
            places = 100 * self.points[self.colors == color]
            if len(places):
                drawn.append((color, "".join(f"M{x:.2f} {y:.2f}h0" for x, y in places)))
        return drawn


def tsne_layout(rows: Float[np.ndarray, "n d"], *, seed: int = 0) -> Float[np.ndarray, "n 2"] | None:
    """Place each row in the unit square, so that rows of similar direction lie close together.

    PCA of the unit rows to 50 components, then t-SNE (van der Maaten and Hinton 2008; Barnes-Hut, van der Maaten 2014)
    initialized with the first two of them. The same rows and seed give the same layout.

    Args:
        rows: the embeddings.
        seed: for PCA and t-SNE.

    Returns:
        Coordinates from 0, the longer side horizontal and 1 long; None for fewer than 10 rows, or if all rows are (nearly)
        one point.
    """
    from sklearn.decomposition import PCA  # here, because these take a second to import and few commands draw a map
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(rows) < MIN_MAP_POINTS:
        return None
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if unit.std(axis=0).max() < MIN_DEVIATION:
        return None
    kept = min(PCA_COMPONENTS, *unit.shape)
    perplexity = min(TSNE_PERPLEXITY, (len(rows) - 1) / 3)
    start = "pca" if kept > 1 else "random"
    # One thread: sums have the same order on every machine, and threads do not wait for each other 500 times on shared cores.
    with threadpool_limits(1), warnings.catch_warnings():
        # about components without any variance, which do not matter here
        warnings.simplefilter("ignore", RuntimeWarning)
        components = PCA(kept, random_state=seed).fit_transform(unit.astype(np.float32))
        tsne = TSNE(2, init=start, perplexity=perplexity, max_iter=TSNE_ITERATIONS, angle=TSNE_ANGLE, random_state=seed)
        placed = tsne.fit_transform(components)
    if not np.isfinite(placed).all():
        return None
    low, high = placed.min(axis=0), placed.max(axis=0)
    wide = np.argsort(low - high, kind="stable")  # the longer side is horizontal
    laid: np.ndarray = ((placed - low) / max(float((high - low).max()), 1e-12))[:, wide]
    return laid


def number_most_frequent(
    values: Int[np.ndarray, " n"], most: int = MAX_COLORS
) -> tuple[Int[np.ndarray, " n"], list[int]]:
    """Replace the most frequent values by 0, 1, 2, ..., in ascending order of the values.

    Args:
        values: labels or groups; negative ones are ignored.
        most: how many values get a number.

    Returns:
        The number of each value, -1 for the others; and the values that have a number.
    """
    known, counts = np.unique(values[values >= 0], return_counts=True)
    kept = np.sort(known[np.argsort(-counts, kind="stable")[:most]])
    if not len(kept):
        return np.full(len(values), -1), []
    place = np.searchsorted(kept, values).clip(0, len(kept) - 1)
    return np.where(kept[place] == values, place, -1), kept.tolist()


def one_point_per_cell(points: Float[np.ndarray, "n 2"], cells: int = CELLS) -> list[int]:
    """Choose, of the points in each cell of a grid with ``cells`` cells a side, the one nearest to its middle."""
    place = np.minimum((points * cells).astype(int), cells - 1)
    distance = np.abs(points * cells - place - 0.5).max(axis=1)
    cell = place[:, 1] * cells + place[:, 0]
    order = np.lexsort((distance, cell))
    first = np.flatnonzero(np.diff(cell[order], prepend=-1))
    return [int(order[position]) for position in first]


def map_embeddings(
    rows: Float[np.ndarray, "n d"],
    values: Int[np.ndarray, " n"],
    name: Callable[[int], str],
    show: Callable[[int], Picture],
    note: str,
    *,
    seed: int = 0,
) -> EmbeddingMap | None:
    """Draw a map of embeddings, colored by label or group.

    Args:
        rows: the embeddings.
        values: label or group of each, -1 for none.
        name: gives the name of a value.
        show: makes the picture of a row.
        note: text below the title.
        seed: for t-SNE.

    Returns:
        None where :func:`tsne_layout` finds no layout.
    """
    points = tsne_layout(rows, seed=seed)
    if points is None:
        return None
    colors, kept = number_most_frequent(values)
    size = 1 / CELLS
    spots = []
    for row in one_point_per_cell(points):
        cell = np.minimum((points[row] * CELLS).astype(int), CELLS - 1)
        x, y = (float(each) for each in (cell + 0.5) * size)
        spots.append(Spot(x, y, int(colors[row]), show(row)))
    return EmbeddingMap(note, points, colors, tuple(map(name, kept)), tuple(spots))
