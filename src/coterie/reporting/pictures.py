"""The pictures of a report: a map, groups and neighbors of the images of a source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from coterie.data.decoding.decode import decode
from coterie.data.loading.center_crop import Preprocessing, center_crop
from coterie.data.sources.source import ImageSource, evenly_spaced
from coterie.embedding.embed import Embeddings
from coterie.evaluation.neighbors import nearest
from coterie.reporting.embedding_map import COLORS, MOST_POINTS, Map, embedding_map
from coterie.reporting.gallery import Gallery, Grouped, Picture, group_galleries, neighbor_gallery

SMALLEST_SIDE = 64  # pixels; smaller images are shown enlarged


@dataclass(frozen=True)
class Pictures:
    """What of a report are pictures."""

    map: Map | None
    galleries: tuple[Gallery, ...]


def picture(
    source: ImageSource,
    index: int,
    preprocessing: Preprocessing,
    caption: str = "",
    right: bool | None = None,
    name: str = "",
) -> Picture:
    """An image as it is shown: its middle, in color or in gray."""
    cut = center_crop(decode(source[index], preprocessing.channels), max(preprocessing.size, SMALLEST_SIDE))
    pixels = cut if cut.dtype == np.uint8 else (cut * 255).astype(np.uint8)
    pixels = pixels if len(pixels) in (1, 3) else pixels[:1]
    return Picture(pixels.transpose(1, 2, 0).squeeze(), caption, right, name)


def neighbors_of(
    queries: torch.Tensor,
    train: Embeddings,
    source: ImageSource,
    preprocessing: Preprocessing,
    count: int,
    label: int | None = None,
) -> tuple[Picture, ...]:
    """The ``count`` images whose embeddings are nearest to one row; marked right if of class ``label``, if that is given."""
    _, found = nearest(F.normalize(queries[None], dim=1), F.normalize(train.rows, dim=1), count)
    return tuple(
        picture(
            source,
            int(train.index[row]),
            preprocessing,
            right=None if label is None else bool(train.labels[row] == label),
        )
        for row in found[0].tolist()
    )


def pictures_of(
    embeddings: Embeddings,
    source: ImageSource,
    preprocessing: Preprocessing,
    group: Callable[[Float[Tensor, "n d"]], Grouped | None] | None = None,
    *,
    points: int = MOST_POINTS,
) -> Pictures:
    """The map, the groups and the neighbors of embedded images.

    Args:
        embeddings: of images of the source; rows that hold NaN or infinity are left out, and counted in the notes.
        source: where the images are.
        preprocessing: how they are cut.
        group: given the rows, says which group each is in; None: no groups.
        points: at most so many are on the map.
    """
    finite: Bool[Tensor, " n"] = embeddings.rows.isfinite().all(dim=1)
    rows, labels, index = embeddings.rows[finite], embeddings.labels[finite], embeddings.index[finite.numpy()]
    of = f"{len(rows):,} images"
    if len(rows) < len(finite):
        of += f" ({len(finite) - len(rows):,} more are left out: NaN or infinity in their embeddings)"
    groups = group(rows) if group is not None and len(rows) else None

    def show(row: int, right: bool | None = None) -> Picture:
        label, position = int(labels[row]), int(index[row])
        caption = source.classes[label] if 0 <= label < len(source.classes) else ""
        return picture(source, position, preprocessing, caption, right, source.name(position))

    galleries = list(group_galleries(groups, labels, source.classes, show, of=of)) if groups is not None else []
    near = neighbor_gallery(rows, labels, source.classes, show, of=of)
    galleries += [near] if near is not None else []
    return Pictures(_map(rows, labels, source.classes, groups, show, points), tuple(galleries))


def _map(
    rows: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    groups: Grouped | None,
    show: Callable[[int], Picture],
    points: int,
) -> Map | None:
    """The map of rows spread evenly over all, colored by class if there are any, else by group."""
    count = min(points, len(rows))
    chosen = evenly_spaced(count, len(rows))
    labeled = bool((labels >= 0).any())
    values = torch.full((len(rows),), -1)
    values = labels if labeled else groups.group if groups is not None else values
    drawn = values.numpy()[chosen]
    kinds = len(np.unique(drawn[drawn >= 0]))

    def called(value: int) -> str:
        if not labeled:
            return f"group {value}"
        return classes[value] if value < len(classes) else str(value)

    note = f"{count:,} images, by t-SNE: those that the network finds alike lie close together."
    if kinds:
        note += f" Colors: {'classes' if labeled else 'groups'}"
        note += f", the {COLORS} commonest of {kinds}." if kinds > COLORS else "."
    return embedding_map(rows.numpy()[chosen], drawn, called, lambda row: show(int(chosen[row])), note)
