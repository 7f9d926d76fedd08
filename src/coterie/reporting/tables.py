"""Figures of probes as tables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coterie.reporting.chart import is_number
from coterie.reporting.curves import name, titled

_KNN = re.compile(r"k(\d+)_t([\d.]+)_top(\d)")


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers under a header; None is a figure that there is none of."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]


def probe_tables(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    """One table for each probe of ``evaluation.json``.

    Args:
        evaluation: ``{probe: {metric: value}}``, or ``{probe: {source: {metric: value}}}``; what is neither is left out.
    """
    tables = []
    for probe, figures in evaluation.items():
        if not isinstance(figures, Mapping) or not figures:
            continue
        nested = {key: value for key, value in figures.items() if isinstance(value, Mapping)}
        plain = {key: value for key, value in figures.items() if is_number(value)}
        if all(_KNN.fullmatch(key) for key in plain) and plain:
            tables.append(_knn(plain))
        elif plain:
            tables.append(Table(titled(probe), ("figure", "value"), tuple((name(k), v) for k, v in plain.items())))
        if nested:
            tables.append(_by_source(titled(probe), nested))
    return tuple(tables)


def _knn(figures: Mapping[str, float]) -> Table:
    """A row for each k and temperature, a column for top 1 and for top 5."""
    found = {(int(m[1]), m[2], m[3]): value for key, value in figures.items() if (m := _KNN.fullmatch(key))}
    tops = sorted({top for _, _, top in found})
    asked = sorted({(k, heat) for k, heat, _ in found}, key=lambda each: (each[0], float(each[1])))
    rows = tuple((k, heat, *(found.get((k, heat, top)) for top in tops)) for k, heat in asked)
    return Table("kNN, %", ("k", "temperature", *(f"top {top}" for top in tops)), rows)


def _by_source(title: str, figures: Mapping[str, Mapping[str, Any]]) -> Table:
    metrics = list(dict.fromkeys(metric for each in figures.values() for metric in each))
    rows = tuple(
        (source, *(each[metric] if is_number(each.get(metric)) else None for metric in metrics))
        for source, each in figures.items()
    )
    return Table(title, ("", *map(name, metrics)), rows)
