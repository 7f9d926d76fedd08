"""Rendering of HTML pages: every page is one file that loads nothing, with its pictures inside.

None runs a script but that of unsupervised structure, which is readable without; its policy allows that script alone.
"""

import base64
import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from coterie.atomic import write_text
from coterie.formatting import format_cell
from coterie.reporting import chart

PictureArray = UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w"]

MAX_PAGE_BYTES = 5_000_000
MAX_PNG_SIDE = 40  # pixels; a picture up to this size is stored losslessly
JPEG_QUALITY = 82


def render_template(template: str, *, side: int, **values: Any) -> str:
    """Render one of this package's templates; all values are escaped.

    Args:
        template: file name of the template.
        side: largest height and width of a picture, in pixels.
        values: what the template shows.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"number": format_cell, "source": lambda pixels: thumbnail(pixels, side)}
    environment.globals |= {"canvas": chart}
    return environment.get_template(template).render(**values)


def write_page(path: str | Path, template: str, sides: Sequence[int], **values: Any) -> None:
    """Write a page as one HTML file that loads nothing, atomically; its pictures are as large as there is room for.

    Args:
        path: of the file.
        template: as of :func:`render_template`.
        sides: largest height and width of a picture in pixels; the smaller ones are for pages that would become too large.
        values: what the template shows.

    Raises:
        UserError: the file cannot be written.
    """
    text = ""
    for side in sides:
        text = render_template(template, side=side, **values)
        if len(text.encode()) < MAX_PAGE_BYTES:
            break
    write_text(path, text)


def thumbnail(pixels: PictureArray, side: int) -> str:
    """Encode a picture as a data URI.

    Args:
        pixels: the picture; of 2 or more than 4 channels only the first is shown, of 4 the first three.
        side: largest height and width, in pixels; smaller pictures keep their size.
    """
    image = _image(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _data_uri(image, lossless=max(image.size) <= MAX_PNG_SIDE)


def sprite(pictures: Sequence[PictureArray], side: int) -> tuple[str, int, int]:
    """Tile small pictures into a single one, row by row, each in a square of ``side`` pixels.

    Returns:
        The data URI, and the number of squares across and down.
    """
    across = max(1, round(len(pictures) ** 0.5))
    down = max(1, -(-len(pictures) // across))
    sheet = Image.new("RGB", (across * side, down * side))
    for number, pixels in enumerate(pictures):
        image = _image(pixels).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(image, (number % across * side, number // across * side))
    return _data_uri(sheet, lossless=False), across, down


def _image(pixels: PictureArray) -> Image.Image:
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3] if pixels.shape[2] in (3, 4) else pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _data_uri(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
