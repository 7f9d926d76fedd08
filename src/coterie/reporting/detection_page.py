"""The HTML page of detections: pictures with the boxes that a detector draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from coterie.data.decoding.decode import decode_shown
from coterie.data.decoding.pixels import ValueRange
from coterie.data.sources.source import ImageSource, random_positions
from coterie.reporting import html
from coterie.reporting.html import PictureArray

MOST_PICTURES = 60
"""Images on a page: a random sample, always the same."""
SURE = 0.5
"""The least score of a box that is drawn."""
SIDES = (360, 240, 160)
"""Of a picture in pixels; the smaller ones are for pages that would become too large."""
COLORS = 10


@dataclass(frozen=True)
class BoxedPicture:
    """An image and the objects in it.

    Attributes:
        position: of the image in its source.
        boxes: left, top, right and bottom edge of each object in pixels.
        names: the category of each.
        scores: how sure each is, in [0, 1].
    """

    position: int
    boxes: Float[np.ndarray, "n 4"]
    names: Sequence[str]
    scores: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class _Box:
    """A box as the page draws it."""

    left: float
    top: float
    width: float
    height: float
    color: int
    title: str


@dataclass(frozen=True)
class _Shown:
    """A picture as the page shows it."""

    pixels: PictureArray
    name: str
    boxes: tuple[_Box, ...]


def write_detection_page(
    path: Path,
    title: str,
    source: ImageSource,
    pictures: Sequence[BoxedPicture],
    categories: Sequence[str],
    about: Mapping[str, str],
    value_range: ValueRange | None = None,
) -> None:
    """Write the page as one HTML file that loads nothing, atomically.

    Args:
        path: of the file.
        title: of the page.
        source: holds the images.
        pictures: what was found in each image.
        categories: names, in the order of their colors.
        about: facts for the end of the page.
        value_range: of images of floating-point, signed or 32-bit values, as the network was trained with.

    Raises:
        UserError: the file cannot be written.
    """
    colors = {name: number % COLORS for number, name in enumerate(categories)}
    chosen = [pictures[place] for place in random_positions(MOST_PICTURES, len(pictures))]
    shown = [
        _shown(source.name(each.position), decode_shown(source[each.position], value_range), each, colors)
        for each in chosen
    ]
    sure = [name for each in pictures for name, score in zip(each.names, each.scores, strict=True) if score >= SURE]
    counts = [(name, sure.count(name), colors[name]) for name in categories if name in sure]
    html.write_page(
        path,
        "detection.html",
        SIDES,
        title=title,
        shown=shown,
        counts=counts,
        images=len(pictures),
        boxes=len(sure),
        least=SURE,
        about=about,
    )


def _shown(name: str, pixels: PictureArray, picture: BoxedPicture, colors: Mapping[str, int]) -> _Shown:
    boxes = tuple(
        _Box(left, top, right - left, bottom - top, colors[name], f"{name} {100 * score:.0f} %")
        for (left, top, right, bottom), name, score in zip(
            picture.boxes.tolist(), picture.names, picture.scores.tolist(), strict=True
        )
        if score >= SURE
    )
    return _Shown(pixels, name, boxes)
