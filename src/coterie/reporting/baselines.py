"""A run beside raw pixels, the untrained network and other models, as its page shows it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coterie.evaluation.evaluation_file import Evaluation, evaluations
from coterie.evaluation.results import Leading, leading_figures
from coterie.formatting import end_of, first_few
from coterie.reporting.report_page import BarChart
from coterie.reporting.tables import Table

THIS_RUN = "this run"
LONGEST_NAME = 24
"""Characters of the name of another model."""


def latest_bars(evaluation: Mapping[str, Any]) -> BarChart | None:
    """The latest evaluation beside its baselines as bars, by the first probe that all of them have; None without baselines.

    Args:
        evaluation: content of ``evaluation.json``.
    """
    for each in reversed(evaluations(evaluation)):
        rows = _rows(each)
        for leading in rows[THIS_RUN] if each.set is None and each.baselines else ():
            if all(leading in figures for figures in rows.values()):
                bars = tuple((name, figures[leading]) for name, figures in rows.items())
                return BarChart(f"Accuracy on labeled images, {leading.name}", bars)
    return None


def beside_tables(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each pair of labeled images of which baselines are known; of several evaluations the latest.

    Args:
        evaluation: content of ``evaluation.json``.
    """
    latest = {_images(each): each for each in evaluations(evaluation) if each.baselines}
    for name, each in latest.items():
        rows = _rows(each)
        compared = [
            leading for leading in rows[THIS_RUN] if any(leading in rows[other] for other in rows if other != THIS_RUN)
        ]
        cells = tuple((row, *(figures.get(leading) for leading in compared)) for row, figures in rows.items())
        yield Table(
            f"Beside baselines, %, on {name}", ("", *(leading.column for leading in compared)), cells, decimals=1
        )


def _rows(each: Evaluation) -> dict[str, dict[Leading, float]]:
    named = {end_of(name, LONGEST_NAME): figures for name, figures in each.baselines.items()} | {THIS_RUN: each.figures}
    return {name: leading_figures(figures) for name, figures in named.items()}


def _images(each: Evaluation) -> str:
    """What a run was evaluated on: the name of a set, or the last parts of the paths."""
    sources = (each.asked.get(name) or () for name in ("test", "train"))
    paths = next((found for found in sources if isinstance(found, list) and found), ["labeled images"])
    return each.set or first_few(["/".join(Path(str(path)).parts[-2:]) for path in paths], ", ")
