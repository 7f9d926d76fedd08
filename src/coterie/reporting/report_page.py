"""The HTML report of a run: one file that works offline and says first whether the run worked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.reporting import html
from coterie.reporting.curves import run_charts
from coterie.reporting.embedding_map import CELLS, EmbeddingMap
from coterie.reporting.gallery import Gallery
from coterie.reporting.tables import Table

THUMBNAIL_SIDES = (112, 80, 56)  # pixels; the smaller ones are for pages that would become too large
MAX_SPOT_SIDE = 48  # pixels of a picture on the map


@dataclass(frozen=True)
class BarChart:
    """A few values side by side as bars; the last one is highlighted.

    Attributes:
        title: what is compared.
        figures: (name, value), values between 0 and ``full``.
        unit: follows each value.
        full: the value of a full bar.
        chance: the value that guessing reaches, marked in the bars; None: not marked.
    """

    title: str
    figures: tuple[tuple[str, float], ...]
    unit: str = " %"
    full: float = 100.0
    chance: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything the page shows, as plain data.

    Attributes:
        title: name of the run.
        answer: one sentence, first on the page: did it work?
        summary: sentences below it: what was done, on which images, for how long.
        bars: the values behind the answer.
        metrics: lines of ``metrics.jsonl``. The ``warning`` of a line is shown and marked in the charts.
        warnings: further warnings, ``{"step": 12, "message": "..."}``; a step of None is not marked in the charts.
        map: the embeddings in the plane.
        galleries: rows of pictures.
        tables: results of probes.
        automatic: (setting, value, reason) of the settings that were chosen automatically.
        config_text: the resolved settings.
        environment: versions, machine, command.
    """

    title: str
    answer: str
    summary: Sequence[str] = ()
    bars: BarChart | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[Mapping[str, Any]] = ()
    map: EmbeddingMap | None = None
    galleries: Sequence[Gallery] = ()
    tables: Sequence[Table] = ()
    automatic: Sequence[tuple[str, str, str]] = ()
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | Path, report: Report) -> None:
    """Write the report as one HTML file that loads nothing, atomically and smaller than 5 MB.

    Until the page is small enough, pictures are scaled down, then rows of galleries are left out, and finally all pictures.

    Raises:
        UserError: the file cannot be written.
    """
    most = max((len(gallery.rows) for gallery in report.galleries), default=1)
    attempts = [(side, most) for side in THUMBNAIL_SIDES]
    while most > 0:
        most //= 2
        attempts.append((THUMBNAIL_SIDES[-1], most))
    for side, rows in attempts:
        text = render_report(report, side=side, rows=rows)
        if len(text.encode()) < html.MAX_PAGE_BYTES:
            break
    write_text(path, text)


def render_report(report: Report, *, side: int = THUMBNAIL_SIDES[0], rows: int | None = None) -> str:
    """Render the report as HTML.

    Args:
        report: what to show.
        side: largest height and width of a picture, in pixels.
        rows: most rows of a gallery; None: all; 0: no pictures on the map either.
    """
    warnings = _warnings(report)
    spots = report.map.spots if report.map is not None and rows != 0 else ()
    largest = max((max(spot.picture.pixels.shape[:2]) for spot in spots), default=MAX_SPOT_SIDE)
    spot_side = min(MAX_SPOT_SIDE, side // 2, largest)
    chart_groups = run_charts(report.metrics, [(step, text) for step, text in warnings if step is not None])
    return html.render_template(
        "report.html",
        side=side,
        report=report,
        rows=rows,
        warnings=warnings,
        chart_groups=chart_groups,
        spots=spots,
        sprite=html.sprite([spot.picture.pixels for spot in spots], spot_side) if spots else None,
        cells=CELLS,
        sections=_sections(report, bool(chart_groups)),
        environment={name: _text(value) for name, value in report.environment.items()},
    )


def _sections(report: Report, curves: bool) -> list[tuple[str, str]]:
    """(name, anchor) of the sections that the navigation links to."""
    found = [("Probes", "probes")] if report.tables else []
    found += [("Curves", "curves")] if curves else []
    found += [("Map", "map")] if report.map is not None else []
    found += [(gallery.title, f"gallery-{number}") for number, gallery in enumerate(report.galleries, start=1)]
    return [*found, ("How it was made", "made")] if report.config_text or report.environment else found


def _warnings(report: Report) -> list[tuple[int | None, str]]:
    """All warnings without duplicates, in the order of their steps; those without a step first."""
    found = [(line.get("step"), str(line["warning"])) for line in report.metrics if "warning" in line]
    found += [(warning.get("step"), str(warning["message"])) for warning in report.warnings]
    return sorted(dict.fromkeys(found), key=lambda pair: -1 if pair[0] is None else pair[0])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
