"""Tables of the results of probes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.evaluation.results import is_compared
from coterie.formatting import is_number, metric_name, metric_title

_KNN = re.compile(r"k(\d+)_t([\d.]+)_top(\d)")


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers below a header; None marks a missing value.

    Attributes:
        title: above the table.
        header: one title per column.
        rows: one value per column.
        decimals: of numbers; None: as many as :func:`coterie.formatting.format_number` shows.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    decimals: int | None = None


def probe_tables(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    """Make a table for each probe of ``evaluation.json``.

    Args:
        evaluation: ``{probe: {metric: value}}``, or ``{probe: {source: {metric: value}}}``; anything else is left out.
    """
    tables = []
    for probe, metrics in evaluation.items():
        if not isinstance(metrics, Mapping) or not metrics:
            continue
        nested = {key: value for key, value in metrics.items() if isinstance(value, Mapping)}
        plain = {key: value for key, value in metrics.items() if is_number(value)}
        if all(_KNN.fullmatch(key) for key in plain) and plain:
            tables.append(_knn_table(plain))
        elif plain:
            rows = tuple((metric_name(key), value) for key, value in plain.items())
            tables.append(Table(metric_title(probe), ("metric", "value"), rows))
        if nested:
            tables.append(_table_by_source(metric_title(probe), nested))
    return tuple(tables)


def _knn_table(metrics: Mapping[str, float]) -> Table:
    """A row for each k and temperature, a column for top 1 and for top 5."""
    found = {(int(m[1]), m[2], m[3]): value for key, value in metrics.items() if (m := _KNN.fullmatch(key))}
    tops = sorted({top for _, _, top in found})
    settings = sorted({(k, temperature) for k, temperature, _ in found}, key=lambda each: (each[0], float(each[1])))
    rows = tuple((k, temperature, *(found.get((k, temperature, top)) for top in tops)) for k, temperature in settings)
    return Table("kNN, %", ("k", "temperature", *(f"top {top}" for top in tops)), rows, decimals=1)


def _table_by_source(title: str, results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per set; of kNN only the metric by which runs are compared."""
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics if is_compared(name)))
    rows = tuple(
        (source, *(metrics[name] if is_number(metrics.get(name)) else None for name in names))
        for source, metrics in results.items()
    )
    return Table(title, ("", *map(metric_name, names)), rows)
