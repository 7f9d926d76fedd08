"""The page that a person looks at after a run: one file, without a network, that says first whether it worked."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from coterie.atomic import write_text
from coterie.evaluation import curves

Pixels = UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "h w"]

LARGEST_PAGE = 5_000_000  # bytes
THUMBNAIL_SIDES = (112, 80, 56)  # pixels; the smaller ones are for pages that would grow too large
LOSSLESS_SIDE = 40  # a picture up to this size is stored as PNG, pixel by pixel


@dataclass(frozen=True)
class Picture:
    """An image with its caption; ``right`` marks it as of the wanted class or not, None leaves it without a mark."""

    pixels: Pixels
    caption: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a name, such as the neighbours that one network found."""

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
class Comparison:
    """Figures to be set side by side as bars; the last one is the one that matters.

    Attributes:
        title: what is compared.
        figures: (name, value), values between 0 and ``full``.
        unit: follows each value.
        full: the value of a full bar.
        chance: what guessing gets, marked in the bars; None: not marked.
    """

    title: str
    figures: tuple[tuple[str, float], ...]
    unit: str = " %"
    full: float = 100.0
    chance: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text or numbers under a header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows, as plain data.

    Attributes:
        title: the run's name.
        answer: one sentence, the first thing on the page: did it work?
        summary: sentences below it: what was done, on what, how long.
        comparison: the figures behind the answer.
        metrics: lines of ``metrics.jsonl``. A line's ``warning`` is shown and marked in the curves.
        warnings: further warnings, ``{"step": 12, "message": "..."}``; a step of None is not marked in the curves.
        galleries: pictures.
        tables: figures.
        config_text: the resolved settings.
        environment: versions, machine, command.
    """

    title: str
    answer: str
    summary: Sequence[str] = ()
    comparison: Comparison | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file that loads nothing, atomically and below 5 MB.

    Pictures are shrunk, and if need be rows of galleries left out, until the page is small enough.

    Raises:
        UserError: the file cannot be written.
    """
    most = max((len(gallery.rows) for gallery in report.galleries), default=1)
    attempts = [(side, most) for side in THUMBNAIL_SIDES]
    while most > 1:
        most //= 2
        attempts.append((THUMBNAIL_SIDES[-1], most))
    for side, rows in attempts:
        page = render(report, side=side, rows=rows)
        if len(page.encode()) < LARGEST_PAGE:
            break
    write_text(path, page)


def render(report: Report, *, side: int = THUMBNAIL_SIDES[0], rows: int | None = None) -> str:
    """The page's text, with pictures of at most ``side`` pixels and at most ``rows`` rows in each gallery."""
    warnings = _warnings(report)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "source": lambda pixels: thumbnail(pixels, side)}
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    return template.render(
        report=report,
        rows=rows,
        warnings=warnings,
        charts=curves.charts(report.metrics, [(step, text) for step, text in warnings if step is not None]),
        canvas=curves,
        environment={name: _text(value) for name, value in report.environment.items()},
    )


def thumbnail(pixels: Pixels, side: int) -> str:
    """A picture as a data URI, at most ``side`` pixels large; of two or of many channels only the first is shown."""
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3] if pixels.shape[2] in (3, 4) else pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS_SIDE else "jpeg"
    if kind == "png":
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _warnings(report: Report) -> list[tuple[int | None, str]]:
    """Every warning once, in the order of the steps; those without a step first."""
    found = [(line.get("step"), str(line["warning"])) for line in report.metrics if "warning" in line]
    found += [(warning.get("step"), str(warning["message"])) for warning in report.warnings]
    return sorted(dict.fromkeys(found), key=lambda pair: -1 if pair[0] is None else pair[0])


def _number(value: Any) -> str:
    return curves.number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
