"""Which pictures are shown next to each other: those of a group, and nearest neighbors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.neighbors import nearest
from coterie.reporting.html import PictureArray

MAX_GROUPS_IN_ONE_GALLERY = 12
"""Up to this many groups are all shown, in a single gallery."""
MIN_PURE_GROUP = 4
"""A group of fewer images than this is not called pure."""


@dataclass(frozen=True)
class Picture:
    """An image as it is shown.

    Attributes:
        pixels: uint8, ``[H, W]`` or ``[H, W, C]``.
        caption: text below it.
        right: whether it is of the class that is looked for; None: not marked.
        name: where it is from, shown while the pointer is over it.
    """

    pixels: PictureArray
    caption: str = ""
    right: bool | None = None
    name: str = ""


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a name, such as the nearest neighbors according to one network.

    Attributes:
        name: what they have in common.
        pictures: the pictures.
        anchor: by which a link on the page leads here.
    """

    name: str
    pictures: tuple[Picture, ...]
    anchor: str = ""


@dataclass(frozen=True)
class Row:
    """A query picture, if there is one, and the strips that belong to it."""

    query: Picture | None
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures under a title."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class GroupAssignment:
    """The group of each of some images.

    Attributes:
        group: number of each image's group; -1: none.
        score: similarity of each image to the center of its group; higher is nearer.
        count: number of groups, including those without an image.
    """

    group: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    count: int


@dataclass(frozen=True)
class GroupMembers:
    """The images of a group.

    Attributes:
        group: its number.
        rows: positions of its images, the nearest to the center first.
        label: the most frequent label among them; -1: none has a label.
        share: fraction of its labeled images that have this label.
    """

    group: int
    rows: tuple[int, ...]
    label: int = -1
    share: float = 0.0


ShowPicture = Callable[[int, bool | None], Picture]
"""Makes the picture of an image from its row, and from whether it is marked as right."""


def group_members(groups: GroupAssignment, labels: Int[Tensor, " n"] | None = None) -> list[GroupMembers]:
    """List the groups that have an image, the largest first and groups of one size by their number.

    Args:
        groups: which image is in which group.
        labels: of the images, -1 for none; None: no labels.
    """
    group = groups.group.numpy()
    order = np.lexsort((-groups.score.numpy(), group))
    order = order[group[order] >= 0]
    if not len(order):
        return []
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    found = []
    for part in parts:
        label, share = -1, 0.0
        if labels is not None and (known := labels[part][labels[part] >= 0]).numel():
            counts = known.bincount()
            label, share = int(counts.argmax()), float(counts.max() / known.numel())
        found.append(GroupMembers(int(group[part[0]]), tuple(part.tolist()), label, share))
    return sorted(found, key=lambda each: (-len(each.rows), each.group))


def group_galleries(
    groups: GroupAssignment,
    labels: Int[Tensor, " n"],
    classes: Sequence[str],
    show: ShowPicture,
    *,
    sample: str,
    max_groups: int = 8,
    max_pictures: int = 8,
) -> tuple[Gallery, ...]:
    """Show the largest, the smallest and, if there are labels, the purest groups by the images nearest to their centers.

    Args:
        groups: which image is in which group.
        labels: of the images, -1 for none.
        classes: names of the labels.
        show: makes the pictures.
        sample: what the images are, for the notes, such as "2,000 images".
        max_groups: most groups of a gallery.
        max_pictures: most pictures of a group.
    """
    labeled = bool((labels >= 0).any())
    found = group_members(groups, labels if labeled else None)
    if not found:
        return ()

    def gallery(title: str, chosen: Sequence[GroupMembers], note: str) -> Gallery:
        rows = []
        for each in chosen:
            several = len(each.rows) > 1
            purity = f", {100 * each.share:.0f} % {_class(classes, each.label)}" if several and each.label >= 0 else ""
            size = f"{len(each.rows):,} images" if several else "1 image"
            known = [several and bool(labels[row] >= 0) for row in each.rows[:max_pictures]]
            marks = [
                bool(labels[row] == each.label) if marked else None
                for row, marked in zip(each.rows, known, strict=False)
            ]
            strip = tuple(show(row, mark) for row, mark in zip(each.rows, marks, strict=False))
            rows.append(Row(None, (Strip(f"group {each.group}: {size}{purity}", strip),)))
        return Gallery(title, tuple(rows), note)

    note = f"{len(found):,} of {groups.count:,} groups contain at least one of {sample}; "
    note += "of each, the images nearest to its center."
    if labeled:
        note += " Marked: the group's most frequent class."
    if len(found) <= MAX_GROUPS_IN_ONE_GALLERY:
        return (gallery("Groups", found, note),)
    galleries = [gallery("Largest groups", found[:max_groups], note)]
    smallest = found[: -max_groups - 1 : -1]
    galleries.append(gallery("Smallest groups", smallest, f"Among the {len(found):,} groups that contain an image."))
    pure = [each for each in found if len(each.rows) >= MIN_PURE_GROUP and each.label >= 0]
    pure = sorted(pure, key=lambda each: -each.share)
    if pure:
        galleries.append(
            gallery("Purest groups", pure[:max_groups], f"Among the groups of {MIN_PURE_GROUP} images or more.")
        )
    return tuple(galleries)


def neighbor_gallery(
    rows: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: Sequence[str],
    show: ShowPicture,
    *,
    sample: str,
    max_queries: int = 8,
    max_pictures: int = 8,
    seed: int = 0,
) -> Gallery | None:
    """Show random images and their nearest neighbors, by the cosine similarity of their embeddings.

    Args:
        rows: the embeddings.
        labels: of the images, -1 for none.
        classes: names of the labels.
        show: makes the pictures.
        sample: what the images are, for the note, such as "2,000 images".
        max_queries: most query images.
        max_pictures: most neighbors of a query.
        seed: for the choice of queries.

    Returns:
        None if there are fewer than two images.
    """
    if len(rows) < 2:
        return None
    unit = F.normalize(rows, dim=1)
    drawn = np.random.default_rng(seed).choice(len(rows), min(max_queries, len(rows)), replace=False)
    queries = torch.from_numpy(np.sort(drawn))
    _, found = nearest(unit[queries], unit, max_pictures + 1)
    shown = []
    for query, neighbors in zip(queries.tolist(), found.tolist(), strict=True):
        others = [row for row in neighbors if row != query][:max_pictures]
        label = int(labels[query])
        marks = [bool(labels[row] == label) if label >= 0 and labels[row] >= 0 else None for row in others]
        strip = Strip("nearest", tuple(show(row, mark) for row, mark in zip(others, marks, strict=True)))
        shown.append(Row(show(query, None), (strip,)))
    note = f"Random images out of {sample}, and their nearest neighbors by the cosine similarity of their embeddings."
    if bool((labels >= 0).any()):
        note += " Marked: same class."
    return Gallery("Nearest neighbors", tuple(shown), note)


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)
