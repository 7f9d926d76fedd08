"""How numbers, durations and the names of metrics are written: in pages, in a terminal, in a notebook."""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

_SPELLINGS = {"knn": "kNN", "svm": "SVM", "nmi": "NMI", "ari": "ARI", "map": "mAP", "kmeans": "k-means"}


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number that can be drawn; booleans are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_number(value: float) -> str:
    """Write a number with three or more significant digits: 1,234; 56.7; 0.0123; 1.2e-05."""
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


def counted(number: int | str, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def format_duration(seconds: float) -> str:
    """Write a duration in seconds below 90 s, in minutes below 90 min, in hours below 48 h, otherwise in days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def format_tick(value: float) -> str:
    """Write a round number as short as an axis needs it: 250, 12k, 1.5M."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:g}{letter}"
    return format_number(value)


def format_cell(value: Any) -> str:
    """Write a table cell: a number by :func:`format_number`, None as a dash, anything else as it is."""
    if value is None:
        return "–"
    return format_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def first_few(names: Sequence[str], separator: str = " ") -> str:
    """Write the first three of some names, and how many more there are: a shell may have made thousands of a pattern."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more


def end_of(name: str, length: int) -> str:
    """Shorten a name to so many characters by leaving out its beginning: of a path, the end tells most."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def metric_name(key: str) -> str:
    """Spell the key of a probe or a metric for people: ``nmi`` becomes NMI, ``top1_accuracy`` becomes top 1 accuracy."""
    words = [_SPELLINGS.get(word, re.sub(r"^(top|p|recall)(\d+)$", r"\1 \2", word)) for word in key.split("_")]
    return " ".join(words)


def metric_title(key: str) -> str:
    """Spell a key as :func:`metric_name` does, with a capital first letter, for the title of a table or a chart."""
    spelled = metric_name(key)
    first = spelled.partition(" ")[0]
    return spelled if first != first.lower() else spelled[:1].upper() + spelled[1:]
