"""Curves of a run as plain numbers: what the report's page needs to draw them, and nothing of how it draws."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The drawing's own units; the page scales it to the width that it has.
WIDTH, HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 30.0
MOST_POINTS = 400  # a longer curve is thinned: a page has no more pixels, and must stay small
MOST_CURVES = 3  # in one drawing
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, in the drawing's units, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve: its name, its strokes (SVG's ``points``; a missing figure breaks the curve) and its last figure."""

    name: str
    strokes: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    last: str


@dataclass(frozen=True)
class Mark:
    """A warning in a curve: where it is, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawing of one or more curves over the steps of a run."""

    title: str
    note: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    reference: Tick | None = None


def charts(metrics: Sequence[Mapping[str, Any]], warnings: Sequence[tuple[int, str]] = ()) -> tuple[Chart, ...]:
    """The curves that the lines of ``metrics.jsonl`` hold: probes first, then signs of health, then speed.

    Args:
        metrics: lines as the run wrote them; a figure that is no number breaks its curve.
        warnings: (step, text), marked in every curve of the loss and of health.
    """
    groups = max((int(line["groups"]) for line in metrics if "groups" in line), default=None)
    reference = None if groups is None else (float(groups), f"all {groups}")
    wanted: list[tuple[str, str, dict[str, Points], tuple[float, str] | None, bool]] = [
        (f"{probe} while training, %", "", found, None, False) for probe, found in _probe_curves(metrics).items()
    ]
    wanted += [
        ("Loss / ln K", "at 1 the predictions know nothing", _named(metrics, loss_over_ln_k="loss"), (1.0, "1"), True),
        ("Groups", "", _named(metrics, groups_used="used", perplexity="perplexity"), reference, True),
        ("Spread of the embeddings", "0 is a collapse", _named(metrics, spread="spread"), None, True),
        ("Learning rate", "", _named(metrics, lr="learning rate"), None, False),
        ("Speed", "images per second", _named(metrics, images_per_second="images per second"), None, False),
        ("Waiting for data", "% of the time", _scaled(_named(metrics, data_wait="waiting"), 100), None, False),
    ]
    steps = [float(line["step"]) for line in metrics if _is_number(line.get("step"))]
    span = (0.0, max(steps, default=0.0))
    return tuple(
        _chart(title, note, curves, span, reference, warnings if marked else ())
        for title, note, curves, reference, marked in wanted
        if any(curves.values())
    )


def number(value: float) -> str:
    """A figure with three or more digits that count: 1,234; 56.7; 0.0123; 1.2e-05."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    if size >= 0.001:
        return f"{value:.3g}"
    return f"{value:.2g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _named(metrics: Sequence[Mapping[str, Any]], **names: str) -> dict[str, Points]:
    """``{name: points}``; a line that holds the key with something that is no finite number breaks its curve (NaN)."""
    curves: dict[str, Points] = {}
    for key, name in names.items():
        lines = [line for line in metrics if key in line and _is_number(line.get("step"))]
        values = [(float(line["step"]), float(line[key]) if _is_number(line[key]) else math.nan) for line in lines]
        if any(math.isfinite(value) for _, value in values):
            curves[name] = values
    return curves


def _scaled(curves: dict[str, Points], factor: float) -> dict[str, Points]:
    return {name: [(step, value * factor) for step, value in points] for name, points in curves.items()}


def _probe_curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """``{probe: {metric: points}}`` of the probes that ran beside the training; of a kNN, one curve for each k."""
    probes: dict[str, dict[str, Points]] = {}
    for line in metrics:
        for probe, figures in line.items():
            if not isinstance(figures, Mapping) or not _is_number(line.get("step")):
                continue
            seen: set[str] = set()
            for metric, value in figures.items():
                name = _metric_name(str(metric))
                if name and name not in seen and _is_number(value):  # the first of several temperatures
                    seen.add(name)
                    curve = probes.setdefault("kNN" if probe == "knn" else str(probe), {}).setdefault(name, [])
                    curve.append((float(line["step"]), float(value)))
    return {probe: dict(list(curves.items())[:MOST_CURVES]) for probe, curves in probes.items()}


def _metric_name(metric: str) -> str:
    """``k20_t0.07_top1`` is called ``k = 20``; others keep their names, and top 5 has none."""
    found = re.fullmatch(r"k(\d+)_t[\d.]+_top(\d)", metric)
    if found is None:
        return metric.replace("_", " ")
    return f"k = {found[1]}" if found[2] == "1" else ""


def _chart(
    title: str,
    note: str,
    curves: dict[str, Points],
    span: tuple[float, float],
    reference: tuple[float, str] | None,
    warnings: Sequence[tuple[int, str]],
) -> Chart:
    values = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if reference is not None:
        values.append(reference[0])
    y_ticks = _ticks(min(0.0, *values), max(values), 4)
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return round(LEFT + (step - span[0]) / ((span[1] - span[0]) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    inside = [step for step in _ticks(span[0], span[1], 4) if span[0] <= step <= span[1]]
    return Chart(
        title,
        note,
        tuple(_line(name, points, x, y) for name, points in curves.items()),
        tuple(Tick(x(step), number(step)) for step in inside),
        tuple(Tick(y(value), number(value)) for value in y_ticks),
        tuple(Mark(x(step), text) for step, text in warnings if span[0] <= step <= span[1]),
        Tick(y(reference[0]), reference[1]) if reference else None,
    )


def _line(name: str, points: Points, x: Any, y: Any) -> Line:
    strokes: list[Points] = [[]]
    for step, value in _thinned(points):
        if math.isfinite(value):
            strokes[-1].append((x(step), y(value)))
        elif strokes[-1]:
            strokes.append([])
    last = next(value for _, value in reversed(points) if math.isfinite(value))
    return Line(
        name,
        tuple(" ".join(f"{a},{b}" for a, b in stroke) for stroke in strokes if len(stroke) > 1),
        tuple(stroke[0] for stroke in strokes if len(stroke) == 1),
        number(last),
    )


def _thinned(points: Points) -> Points:
    """At most about ``MOST_POINTS``: of each run of neighbours the lowest and the highest stay, so no spike is lost."""
    if len(points) <= MOST_POINTS:
        return points
    length = math.ceil(2 * len(points) / MOST_POINTS)
    kept: Points = []
    for start in range(0, len(points), length):
        part = points[start : start + length]
        finite = [point for point in part if math.isfinite(point[1])]
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])} if finite else set()
        gap = [(part[-1][0], math.nan)] if len(finite) < len(part) else []
        kept += [*sorted(ends), *gap]
    return kept


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that begin at or below ``low`` and end at or above ``high``."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [count * step for count in range(first, last + 1)]
