"""Which images are shown beside each other: those of a group, and the neighbors of some."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.neighbors import nearest
from coterie.reporting.html import Pixels

FEW = 12
"""So many groups or fewer are all shown, in one gallery."""
PURE = 4
"""A group of fewer images than this is not called pure."""


@dataclass(frozen=True)
class Picture:
    """An image as it is shown.

    Attributes:
        pixels: uint8, ``[H, W]`` or ``[H, W, C]``.
        caption: below it.
        right: whether it is of the wanted class; None leaves it without a mark.
        name: where it is from, shown to a pointer that rests on it.
    """

    pixels: Pixels
    caption: str = ""
    right: bool | None = None
    name: str = ""


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a name, such as the neighbors that one network found."""

    name: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Row:
    """The picture in question and the strips that belong to it."""

    query: Picture | None
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures under a title."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True)
class Grouped:
    """Which group each of some images is in.

    Attributes:
        group: of each image; -1 if none.
        score: of each image with the center of its group: the larger, the nearer.
        count: how many groups there are, whether or not an image is in them.
    """

    group: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    count: int


@dataclass(frozen=True)
class Member:
    """A group with its images, the nearest to the center first; ``label`` is its commonest, ``share`` what part has it."""

    group: int
    rows: tuple[int, ...]
    label: int = -1
    share: float = 0.0


Show = Callable[[int, bool | None], Picture]
"""Given the row of an image, and whether it is marked as right, gives its picture."""


def members(grouped: Grouped, labels: Int[Tensor, " n"] | None = None) -> list[Member]:
    """The groups that hold an image, the largest first; of two of a size, the one with the smaller number."""
    group = grouped.group.numpy()
    order = np.lexsort((-grouped.score.numpy(), group))
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
        found.append(Member(int(group[part[0]]), tuple(part.tolist()), label, share))
    return sorted(found, key=lambda each: (-len(each.rows), each.group))


def group_galleries(
    grouped: Grouped,
    labels: Int[Tensor, " n"],
    classes: Sequence[str],
    show: Show,
    *,
    of: str,
    groups: int = 8,
    pictures: int = 8,
) -> tuple[Gallery, ...]:
    """The largest, the smallest and, where there are labels, the purest groups: the images nearest to each center.

    Args:
        grouped: which image is in which group.
        labels: of the images, -1 for none.
        classes: names of the labels.
        show: makes the pictures.
        of: what the images are, for the notes: "2,000 images of the training set".
        groups: at most so many in a gallery.
        pictures: at most so many of a group.
    """
    labeled = bool((labels >= 0).any())
    found = members(grouped, labels if labeled else None)
    if not found:
        return ()

    def gallery(title: str, chosen: Sequence[Member], note: str) -> Gallery:
        rows = []
        for each in chosen:
            several = len(each.rows) > 1
            named = f", {100 * each.share:.0f} % {_class(classes, each.label)}" if several and each.label >= 0 else ""
            size = f"{len(each.rows):,} images" if several else "1 image"
            known = [several and bool(labels[row] >= 0) for row in each.rows[:pictures]]
            marks = [
                bool(labels[row] == each.label) if marked else None
                for row, marked in zip(each.rows, known, strict=False)
            ]
            strip = tuple(show(row, mark) for row, mark in zip(each.rows, marks, strict=False))
            rows.append(Row(None, (Strip(f"group {each.group}: {size}{named}", strip),)))
        return Gallery(title, tuple(rows), note)

    used = f"{len(found):,} of {grouped.count:,} groups hold one of {of}"
    note = f"{used}. Of each group, the images nearest to its center."
    if labeled:
        note += " Marked: of the group's commonest class."
    if len(found) <= FEW:
        return (gallery("Groups", found, note),)
    galleries = [gallery("Largest groups", found[:groups], note)]
    galleries.append(gallery("Smallest groups", found[: -groups - 1 : -1], f"Of the {len(found):,} that hold one."))
    pure = sorted((each for each in found if len(each.rows) >= PURE and each.label >= 0), key=lambda each: -each.share)
    if pure:
        galleries.append(gallery("Purest groups", pure[:groups], f"Of those that hold {PURE} images or more."))
    return tuple(galleries)


def neighbor_gallery(
    rows: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: Sequence[str],
    show: Show,
    *,
    of: str,
    queries: int = 8,
    pictures: int = 8,
    seed: int = 0,
) -> Gallery | None:
    """Some images, drawn at random, and which others have the nearest embeddings by cosine; None of a single image."""
    if len(rows) < 2:
        return None
    unit = F.normalize(rows, dim=1)
    drawn = np.random.default_rng(seed).choice(len(rows), min(queries, len(rows)), replace=False)
    asked = torch.from_numpy(np.sort(drawn))
    _, found = nearest(unit[asked], unit, pictures + 1)
    shown = []
    for query, near in zip(asked.tolist(), found.tolist(), strict=True):
        others = [row for row in near if row != query][:pictures]
        label = int(labels[query])
        marks = [bool(labels[row] == label) if label >= 0 and labels[row] >= 0 else None for row in others]
        strip = Strip("nearest", tuple(show(row, mark) for row, mark in zip(others, marks, strict=True)))
        shown.append(Row(show(query, None), (strip,)))
    note = f"Some of {of}, drawn at random, and the nearest to them by the cosine of their embeddings."
    if bool((labels >= 0).any()):
        note += " Marked: of the same class."
    return Gallery("Nearest neighbors", tuple(shown), note)


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)
