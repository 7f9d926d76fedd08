"""Curves as plain numbers: where a page draws them, and nothing of what they mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

# The drawing's own units; the page scales it to the width that it has.
WIDTH, HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 30.0
MOST_POINTS = 400  # a longer curve is thinned: a page has no more pixels, and must stay small
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, in the drawing's units, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: in the key.
        strokes: SVG's ``points``; a missing figure breaks the curve.
        dots: figures that stand alone.
        last: the last figure, as text.
        color: number of its color, the same for the same thing in all drawings of a page.
    """

    name: str
    strokes: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    last: str
    color: int


@dataclass(frozen=True)
class Mark:
    """A warning in a curve: where it is, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawing of one or more curves over the steps of a run, or over the images that runs have seen."""

    title: str
    note: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...] = ()
    reference: Tick | None = None


def draw_chart(
    title: str,
    note: str,
    curves: Mapping[str, Points],
    span: tuple[float, float],
    *,
    reference: tuple[float, str] | None = None,
    warnings: Sequence[tuple[float, str]] = (),
    unit: str = "steps",
    colors: Sequence[str] = (),
    from_zero: bool = True,
) -> Chart:
    """Lay curves out between round ticks.

    Args:
        title: of the drawing.
        note: below the title.
        curves: ``{name: [(x, y), ...]}``, each with a finite figure at least; NaN breaks a curve.
        span: the first and the last x.
        reference: a level to compare with, and what it is.
        warnings: (x, text); those outside ``span`` are left out.
        unit: of x.
        colors: the names in the order of their colors; without it, that of ``curves``.
        from_zero: whether zero is always in sight.
    """
    values = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if reference is not None:
        values.append(reference[0])
    if from_zero:
        values.append(0.0)
    y_ticks = ticks(min(values), max(values), 4)
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return round(LEFT + (step - span[0]) / ((span[1] - span[0]) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    order = list(colors or curves)
    inside = [step for step in ticks(span[0], span[1], 4) if span[0] <= step <= span[1]]
    texts = [short(step) for step in inside]
    texts[-1:] = [f"{text} {unit}" for text in texts[-1:]]
    return Chart(
        title,
        note,
        tuple(_line(name, points, x, y, order.index(name)) for name, points in curves.items()),
        tuple(Tick(x(step), text) for step, text in zip(inside, texts, strict=True)),
        tuple(Tick(y(value), short(value)) for value in y_ticks),
        tuple(Mark(x(step), text) for step, text in warnings if span[0] <= step <= span[1]),
        Tick(y(reference[0]), reference[1]) if reference else None,
    )


def duration(seconds: float) -> str:
    """Seconds below 90, minutes below 90, else hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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


def short(value: float) -> str:
    """A round figure as a tick has room for it: 250, 12k, 1.5M."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:g}{letter}"
    return number(value)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number that can be drawn; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _line(name: str, points: Points, x: Any, y: Any, color: int) -> Line:
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
        color,
    )


def _thinned(points: Points) -> Points:
    """At most about ``MOST_POINTS``: of each run of neighbors the lowest and the highest stay, so no spike is lost."""
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


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that begin at or below ``low`` and end at or above ``high``."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [count * step for count in range(first, last + 1)]
