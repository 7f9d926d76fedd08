"""The page that a person looks at after a run: one file, without a network, that says first whether it worked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.reporting import html as page
from coterie.reporting.curves import charts
from coterie.reporting.embedding_map import CELLS, Map
from coterie.reporting.gallery import Gallery
from coterie.reporting.html import sprite
from coterie.reporting.tables import Table

THUMBNAIL_SIDES = (112, 80, 56)  # pixels; the smaller ones are for pages that would grow too large
SPOT_SIDE = 48  # pixels of a picture on the map, at most


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
class Report:
    """All that the page shows, as plain data.

    Attributes:
        title: the run's name.
        answer: one sentence, the first thing on the page: did it work?
        summary: sentences below it: what was done, on what, how long.
        comparison: the figures behind the answer.
        metrics: lines of ``metrics.jsonl``. A line's ``warning`` is shown and marked in the curves.
        warnings: further warnings, ``{"step": 12, "message": "..."}``; a step of None is not marked in the curves.
        map: the embeddings in the plane.
        galleries: pictures.
        tables: figures.
        automatic: (setting, value, reason) of the settings that were found.
        config_text: the resolved settings.
        environment: versions, machine, command.
    """

    title: str
    answer: str
    summary: Sequence[str] = ()
    comparison: Comparison | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    map: Map | None = None
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    automatic: Sequence[tuple[str, str, str]] = ()
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file that loads nothing, atomically and below 5 MB.

    Pictures are shrunk, and if need be rows of galleries and in the end all pictures left out, until the page is small enough.

    Raises:
        UserError: the file cannot be written.
    """
    most = max((len(gallery.rows) for gallery in report.galleries), default=1)
    attempts = [(side, most) for side in THUMBNAIL_SIDES]
    while most > 0:
        most //= 2
        attempts.append((THUMBNAIL_SIDES[-1], most))
    for side, rows in attempts:
        text = render(report, side=side, rows=rows)
        if len(text.encode()) < page.LARGEST_PAGE:
            break
    write_text(path, text)


def render(report: Report, *, side: int = THUMBNAIL_SIDES[0], rows: int | None = None) -> str:
    """The page's text, with pictures of at most ``side`` pixels and at most ``rows`` rows in each gallery."""
    warnings = _warnings(report)
    spots = report.map.spots if report.map is not None and rows != 0 else ()
    seen = max((max(spot.picture.pixels.shape[:2]) for spot in spots), default=SPOT_SIDE)
    parts = charts(report.metrics, [(step, text) for step, text in warnings if step is not None])
    return page.render(
        "report.html",
        side=side,
        report=report,
        rows=rows,
        warnings=warnings,
        parts=parts,
        spots=spots,
        sprite=sprite([spot.picture.pixels for spot in spots], min(SPOT_SIDE, side // 2, seen)) if spots else None,
        cells=CELLS,
        sections=_sections(report, bool(parts)),
        environment={name: _text(value) for name, value in report.environment.items()},
    )


def _sections(report: Report, curves: bool) -> list[tuple[str, str]]:
    """(name, anchor) of what can be gone to."""
    found = [("Figures", "figures")] if report.tables else []
    found += [("Curves", "curves")] if curves else []
    found += [("Map", "map")] if report.map is not None else []
    found += [(gallery.title, f"gallery-{number}") for number, gallery in enumerate(report.galleries, start=1)]
    return [*found, ("How it was made", "made")] if report.config_text or report.environment else found


def _warnings(report: Report) -> list[tuple[int | None, str]]:
    """Every warning once, in the order of the steps; those without a step first."""
    found = [(line.get("step"), str(line["warning"])) for line in report.metrics if "warning" in line]
    found += [(warning.get("step"), str(warning["message"])) for warning in report.warnings]
    return sorted(dict.fromkeys(found), key=lambda pair: -1 if pair[0] is None else pair[0])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
