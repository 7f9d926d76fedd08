"""The pictures of a report: a map, groups and nearest neighbors of the images of a source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from coterie.data.decoding.decode import decode
from coterie.data.loading.center_crop import Preprocessing, center_crop
from coterie.data.sources.source import ImageSource, random_positions
from coterie.embedding.embed import Embeddings
from coterie.evaluation.neighbors import nearest
from coterie.reporting.embedding_map import MAX_COLORS, MAX_MAP_POINTS, EmbeddingMap, map_embeddings
from coterie.reporting.gallery import Gallery, GroupAssignment, Picture, group_galleries, neighbor_gallery
from coterie.reporting.html import PictureArray

MIN_PICTURE_SIDE = 64  # pixels; smaller images are enlarged


@dataclass(frozen=True)
class ReportPictures:
    """The parts of a report that consist of pictures."""

    map: EmbeddingMap | None
    galleries: tuple[Gallery, ...]


def make_picture(
    source: ImageSource,
    index: int,
    preprocessing: Preprocessing,
    caption: str = "",
    right: bool | None = None,
    name: str = "",
) -> Picture:
    """Decode an image and cut it as for the network, in color or grayscale.

    Args:
        source: where the image is.
        index: its position there.
        preprocessing: the size and the channels that the network gets.
        caption: as of :class:`Picture`.
        right: as of :class:`Picture`.
        name: as of :class:`Picture`.

    Raises:
        BadImage: it cannot be decoded.
    """
    return Picture(seen_pixels(source, index, preprocessing, MIN_PICTURE_SIDE), caption, right, name)


def seen_pixels(source: ImageSource, index: int, preprocessing: Preprocessing, least: int) -> PictureArray:
    """Decode an image and cut it as for the network, in color or grayscale.

    Args:
        source: where the image is.
        index: its position there.
        preprocessing: the part of it and the channels that the network gets, and at which size.
        least: height and width in pixels, if those of the network are smaller.

    Raises:
        BadImage: it cannot be decoded.
    """
    look = preprocessing if preprocessing.size >= least else preprocessing.at(least)
    image = decode(source[index], look.channels, value_range=look.value_range)
    cut = center_crop(image, look.size, look.crop, look.interpolation)
    pixels = cut if cut.dtype == np.uint8 else (cut * 255).astype(np.uint8)
    return np.ascontiguousarray((pixels if len(pixels) == 3 else pixels[:1]).transpose(1, 2, 0).squeeze())


def nearest_pictures(
    query: Float[Tensor, " d"],
    train: Embeddings,
    source: ImageSource,
    preprocessing: Preprocessing,
    count: int,
    label: int | None = None,
) -> tuple[Picture, ...]:
    """Show the images whose embeddings are nearest to a query, by cosine similarity, the nearest first.

    Args:
        query: an embedding.
        train: the embeddings to search.
        source: their images.
        preprocessing: how images are cut.
        count: how many to show.
        label: the label of the query: images that have it are marked right, others wrong; None: no marks.
    """
    _, found = nearest(F.normalize(query[None], dim=1), F.normalize(train.rows, dim=1), count)
    return tuple(
        make_picture(
            source,
            int(train.index[row]),
            preprocessing,
            right=None if label is None else bool(train.labels[row] == label),
        )
        for row in found[0].tolist()
    )


def report_pictures(
    embeddings: Embeddings,
    source: ImageSource,
    preprocessing: Preprocessing,
    assign: Callable[[Float[Tensor, "n d"]], GroupAssignment | None] | None = None,
    *,
    max_points: int = MAX_MAP_POINTS,
) -> ReportPictures:
    """Make the map and the galleries of groups and of nearest neighbors.

    Args:
        embeddings: of images of the source; rows that contain NaN or infinity are left out, and counted in the notes.
        source: where the images are.
        preprocessing: how images are cut.
        assign: gives the group of each row; None: no gallery of groups.
        max_points: most points on the map.
    """
    finite: Bool[Tensor, " n"] = embeddings.rows.isfinite().all(dim=1)
    rows, labels, index = embeddings.rows[finite], embeddings.labels[finite], embeddings.index[finite.numpy()]
    sample = f"{len(rows):,} images"
    if len(rows) < len(finite):
        sample += f" ({len(finite) - len(rows):,} more are left out: NaN or infinity in their embeddings)"
    groups = assign(rows) if assign is not None and len(rows) else None

    def show(row: int, right: bool | None = None) -> Picture:
        label, position = int(labels[row]), int(index[row])
        caption = source.classes[label] if 0 <= label < len(source.classes) else ""
        return make_picture(source, position, preprocessing, caption, right, source.name(position))

    galleries: list[Gallery] = []
    if groups is not None:
        galleries += group_galleries(groups, labels, source.classes, show, sample=sample)
    neighbors = neighbor_gallery(rows, labels, source.classes, show, sample=sample)
    galleries += [neighbors] if neighbors is not None else []
    return ReportPictures(_map(rows, labels, source.classes, groups, show, max_points), tuple(galleries))


def _map(
    rows: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    groups: GroupAssignment | None,
    show: Callable[[int], Picture],
    max_points: int,
) -> EmbeddingMap | None:
    """The map of a random sample of the rows, colored by class if there are any, otherwise by group."""
    chosen = random_positions(max_points, len(rows))
    labeled = bool((labels >= 0).any())
    values = torch.full((len(rows),), -1)
    values = labels if labeled else groups.group if groups is not None else values
    drawn = values.numpy()[chosen]
    kinds = len(np.unique(drawn[drawn >= 0]))

    def name(value: int) -> str:
        if not labeled:
            return f"group {value}"
        return classes[value] if value < len(classes) else str(value)

    note = f"{len(chosen):,} images, by t-SNE: images that the network finds similar lie close together."
    if kinds:
        note += f" Colors: {'classes' if labeled else 'groups'}"
        note += f", the {MAX_COLORS} most frequent of {kinds}." if kinds > MAX_COLORS else "."
    return map_embeddings(rows.numpy()[chosen], drawn, name, lambda row: show(int(chosen[row])), note)
