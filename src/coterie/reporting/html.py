"""What every page has in common: one file that loads nothing and runs nothing, and pictures inside it."""

import base64
import io
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from coterie.reporting import chart as drawing

Pixels = UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w"]

LARGEST_PAGE = 5_000_000  # bytes
LOSSLESS_SIDE = 40  # a picture up to this size is stored as PNG, pixel by pixel
QUALITY = 82  # of JPEG


def render(template: str, *, side: int, **values: Any) -> str:
    """The text of a page: one of this package's templates, everything in it escaped, pictures of at most ``side`` pixels."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"number": value_text, "source": lambda pixels: thumbnail(pixels, side)}
    environment.globals |= {"canvas": drawing}
    return environment.get_template(template).render(**values)


def value_text(value: Any) -> str:
    """A cell of a table: a number with the digits that count, None as a dash, anything else as it is."""
    if value is None:
        return "–"
    return drawing.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def thumbnail(pixels: Pixels, side: int) -> str:
    """A picture as a data URI, at most ``side`` pixels large; of two or of many channels only the first is shown."""
    image = _image(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encoded(image, lossless=max(image.size) <= LOSSLESS_SIDE)


def sprite(pictures: Sequence[Pixels], side: int) -> tuple[str, int, int]:
    """Many small pictures in one, row by row, each in a square of ``side`` pixels.

    Returns:
        The data URI, and how many squares there are across and down.
    """
    across = max(1, round(len(pictures) ** 0.5))
    down = max(1, -(-len(pictures) // across))
    sheet = Image.new("RGB", (across * side, down * side))
    for number, pixels in enumerate(pictures):
        image = _image(pixels).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(image, (number % across * side, number // across * side))
    return _encoded(sheet, lossless=False), across, down


def _image(pixels: Pixels) -> Image.Image:
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3] if pixels.shape[2] in (3, 4) else pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encoded(image: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/{'png' if lossless else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
