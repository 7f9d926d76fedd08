"""What probes found: dictionaries that print as text, and as tables in a notebook; and the file that keeps them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.logger import Logger
from coterie.paths import expand
from coterie.table import ShownInTables, TextTable
from coterie.training.run_folder import EVALUATION


class ProbeResults(ShownInTables, dict[str, dict[str, float]]):
    """``{probe: {metric: value}}``."""

    def tables(self) -> Sequence[TextTable | str]:
        """One row per metric."""
        rows = [(probe, name, f"{value:.4g}") for probe, metrics in self.items() for name, value in metrics.items()]
        return [TextTable(("", "", ""), tuple(rows), "<<>")]


class TransferResults(ShownInTables, dict[str, dict[str, float]]):
    """``{set: {probe_metric: value}}``."""

    def tables(self) -> Sequence[TextTable | str]:
        """One row per set, one column per metric."""
        return [metric_table(self)]


def metric_table(metrics: Mapping[str, Mapping[str, float]]) -> TextTable:
    """One row per name, one column per metric; a dash where a row does not have it."""
    names = list(dict.fromkeys(name for each in metrics.values() for name in each))
    rows = [
        (title, *(f"{each[name]:.4g}" if name in each else "-" for name in names)) for title, each in metrics.items()
    ]
    return TextTable(("", *names), tuple(rows))


def note_results(run: str | Path, results: Mapping[str, Any], logger: Logger) -> None:
    """Add results to ``evaluation.json`` of a run; does nothing if ``run`` is no folder.

    Args:
        run: a run's folder.
        results: of :func:`coterie.evaluate`, or ``{"transfer": ...}``: a table that grows.
        logger: is warned if an earlier file is damaged.
    """
    if not expand(run).is_dir():
        return
    path = expand(run) / EVALUATION
    try:
        earlier = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        logger.warning(f"{path} could not be read and is replaced")
        earlier = {}
    if "transfer" in results:
        results = {"transfer": earlier.get("transfer", {}) | results["transfer"]}
    write_text(path, json.dumps(earlier | dict(results), indent=2) + "\n")
