"""Layout of charts: curves become coordinates and tick labels. What the curves mean is no concern of this module."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coterie.formatting import format_number, format_tick

# In the units of the SVG drawing, which the page scales to the width it has.
WIDTH, HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 30.0
MAX_CURVE_POINTS = 400  # longer curves are thinned out: a page has no more pixels, and must stay small
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A label on an axis: its position in the units of the drawing, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
        name: shown in the legend.
        strokes: values of SVG's ``points`` attribute; a missing value breaks the curve into several strokes.
        dots: coordinates of values that have no neighbor to be connected with.
        last: the last value, as text.
        color: number of its color; the same name has the same color in all charts of a page.
    """

    name: str
    strokes: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    last: str
    color: int


@dataclass(frozen=True)
class Mark:
    """A warning in a chart: its position on the x axis, in the units of the drawing, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """One or more curves over the steps of a run, or over the images that runs have processed, ready to be drawn."""

    title: str
    note: str
    curves: tuple[Curve, ...]
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
    """Lay out curves between round ticks.

    Args:
        title: of the chart.
        note: text below the title.
        curves: ``{name: [(x, y), ...]}``, each with at least one finite value; NaN breaks a curve.
        span: the first and the last x.
        reference: a y value to compare with, and its label.
        warnings: (x, text); those outside ``span`` are left out.
        unit: of x.
        colors: names in the order of their colors; empty: the order of ``curves``.
        from_zero: whether the y axis includes zero.
    """
    values = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if reference is not None:
        values.append(reference[0])
    if from_zero:
        values.append(0.0)
    y_ticks = round_ticks(min(values), max(values), 4)
    low, high = y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return round(LEFT + (step - span[0]) / ((span[1] - span[0]) or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    order = list(colors or curves)
    inside = [step for step in round_ticks(span[0], span[1], 4) if span[0] <= step <= span[1]]
    texts = [format_tick(step) for step in inside]
    texts[-1:] = [f"{text} {unit}" for text in texts[-1:]]
    return Chart(
        title,
        note,
        tuple(_curve(name, points, x, y, order.index(name)) for name, points in curves.items()),
        tuple(Tick(x(step), text) for step, text in zip(inside, texts, strict=True)),
        tuple(Tick(y(value), format_tick(value)) for value in y_ticks),
        tuple(Mark(x(step), text) for step, text in warnings if span[0] <= step <= span[1]),
        Tick(y(reference[0]), reference[1]) if reference else None,
    )


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Choose round, evenly spaced numbers that start at or below ``low`` and end at or above ``high``.

    Args:
        low: the smallest value to cover.
        high: the largest value to cover.
        about: how many intervals there should be, roughly.
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [count * step for count in range(first, last + 1)]


def _curve(name: str, points: Points, x: Callable[[float], float], y: Callable[[float], float], color: int) -> Curve:
    strokes: list[Points] = [[]]
    for step, value in _thinned(points):
        if math.isfinite(value):
            strokes[-1].append((x(step), y(value)))
        elif strokes[-1]:
            strokes.append([])
    last = next(value for _, value in reversed(points) if math.isfinite(value))
    return Curve(
        name,
        tuple(" ".join(f"{a},{b}" for a, b in stroke) for stroke in strokes if len(stroke) > 1),
        tuple(stroke[0] for stroke in strokes if len(stroke) == 1),
        format_number(last),
        color,
    )


def _thinned(points: Points) -> Points:
    """Keep about ``MAX_CURVE_POINTS`` points: the lowest and the highest of each bin, so that no spike is lost."""
    if len(points) <= MAX_CURVE_POINTS:
        return points
    length = math.ceil(2 * len(points) / MAX_CURVE_POINTS)
    kept: Points = []
    for start in range(0, len(points), length):
        part = points[start : start + length]
        finite = [point for point in part if math.isfinite(point[1])]
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])} if finite else set()
        gap = [(part[-1][0], math.nan)] if len(finite) < len(part) else []
        kept += [*sorted(ends), *gap]
    return kept
