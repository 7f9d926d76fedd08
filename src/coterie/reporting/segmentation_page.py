"""The HTML page of masks: pictures with the colors of the classes that a segmenter finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.formatting import end_of
from coterie.reporting import html
from coterie.reporting.html import PictureArray

SIDES = (320, 200, 120)
"""Of a picture in pixels; the smaller ones are for pages that would become too large."""
NAMED = 4
"""Classes that a caption names, at most."""


@dataclass(frozen=True)
class MaskedPicture:
    """An image as the page shows it.

    Attributes:
        name: of the image.
        pixels: of the image.
        overlay: the same with the colors of the classes.
        shares: name and share of the pixels of each class that is there.
    """

    name: str
    pixels: PictureArray
    overlay: PictureArray
    shares: Sequence[tuple[str, float]]

    @property
    def short_name(self) -> str:
        """The end of its name, as a caption has it."""
        return end_of(self.name, 30)


def write_segmentation_page(
    path: Path,
    title: str,
    pictures: Sequence[MaskedPicture],
    classes: Sequence[tuple[str, str, float]],
    images: int,
    about: Mapping[str, str],
) -> None:
    """Write the page as one HTML file that loads nothing, atomically.

    Args:
        path: of the file.
        title: of the page.
        pictures: some of the images.
        classes: name, color as CSS writes it, and share of all pixels of each class.
        images: how many there are.
        about: facts for the end of the page.

    Raises:
        UserError: the file cannot be written.
    """
    shown = [(each, sorted(each.shares, key=lambda pair: -pair[1])[:NAMED]) for each in pictures]
    html.write_page(
        path,
        "segmentation.html",
        SIDES,
        title=title,
        shown=shown,
        classes=[each for each in classes if each[2] > 0],
        absent=[name for name, _, share in classes if not share > 0],
        images=images,
        about=about,
    )
