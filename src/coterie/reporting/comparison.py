"""Comparison of several runs: one table as plain data, as text for a terminal, and as an HTML page with their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.errors import UserError
from coterie.formatting import format_cell, metric_title
from coterie.paths import expand
from coterie.reporting.chart import Chart, Points, draw_chart
from coterie.reporting.curves import (
    LABEL_FREE_CHARTS,
    REGULARIZER,
    REGULARIZER_NOTE,
    Log,
    label_free_log,
    named_curves,
    probe_curves,
    regularizer_percent,
)
from coterie.reporting.html import render_template
from coterie.reporting.run_figures import (
    COST,
    LEARNING,
    THE_RUN,
    Cell,
    NamedFigures,
    RunRecord,
    flat_settings,
    label_free_figures,
    latest_probe_figures,
    probe_figures,
    read_run_record,
    unfinished_remarks,
)
from coterie.table import ShownInTables, TextTable

MAX_CELL_CHARACTERS = 24  # in a terminal
NOT_SCORES = ("learning rate", "weight decay", "epochs", "images", "examples")
"""What a probe may report beside its scores; a higher value of these is not better."""


@dataclass(frozen=True)
class ComparisonRow:
    """One figure of all runs.

    Attributes:
        name: of the figure.
        cells: its value for each run.
        best: position of the highest value; None if higher is not better, or fewer than two runs have different values.
    """

    name: str
    cells: tuple[Cell, ...]
    best: int | None = None


@dataclass(frozen=True)
class Section:
    """Rows of one kind under a title."""

    title: str
    rows: tuple[ComparisonRow, ...]


@dataclass(frozen=True)
class ComparedRuns(ShownInTables):
    """Runs side by side, as plain data; ``print`` shows what ``coterie compare`` prints.

    Attributes:
        names: of the runs.
        answer: one sentence: which run is best according to a probe.
        sections: the table; each row has a cell for each run, None where a run has no such figure.
        settings: rows of the settings that are not the same in all runs.
        charts: the curves of all runs over the number of images processed.
        remarks: one line for each thing that is wrong with a run.
    """

    names: tuple[str, ...]
    answer: str
    sections: tuple[Section, ...]
    settings: tuple[ComparisonRow, ...]
    charts: tuple[Chart, ...]
    remarks: tuple[str, ...] = ()

    def tables(self) -> Sequence[TextTable | str]:
        """One table: a row per figure, a column per run.

        A star marks the best value, and long texts lose their beginning.
        """
        sections = [*self.sections, *([Section("Settings that differ", self.settings)] if self.settings else [])]
        blank, rows = ("",) * (1 + len(self.names)), list[tuple[str, ...]]()
        for section in sections:
            rows += [blank, (section.title, *blank[1:])]
            rows += [(f"  {row.name}", *map(_marked, row.cells, _best(row))) for row in section.rows]
        header = ("", *(f"{name} " for name in self.names))
        return [TextTable(header, tuple(rows), "<" + ">" * len(self.names)), "", *self.remarks, self.answer]


def compare_folders(runs: Sequence[str | Path]) -> ComparedRuns:
    """Read the folders of some runs and compare them.

    A run that is unfinished, or has a damaged file, is compared by what is there, and a remark says so.

    Args:
        runs: folders of two or more runs.

    Raises:
        UserError: fewer than two runs, the same run twice, or a folder that is not a run's.
    """
    folders = [expand(run) for run in runs]
    if len(folders) < 2:
        raise UserError("name two runs or more to compare")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("the same run is named twice: name each once")
    return compare_runs(
        [read_run_record(folder, name) for folder, name in zip(folders, _short_names(folders), strict=True)]
    )


def compare_runs(runs: Sequence[RunRecord]) -> ComparedRuns:
    """Set runs side by side: what they are, how far they are, and every figure that they have."""
    logs = [label_free_log(run.log) for run in runs]
    latest = [log[-1] if log else {} for log in logs]
    sections = {
        "The run": _rows(runs, THE_RUN),
        "Is it learning?": _rows(runs, LEARNING),
        "Probes": _metric_rows([probe_figures(run) for run in runs], higher_is_better=True),
        "Latest probe during training": _metric_rows(
            [latest_probe_figures(run.log) for run in runs], higher_is_better=True
        ),
        "Latest label-free metrics": _metric_rows([label_free_figures(line) for line in latest]),
        "Cost": _rows(runs, COST),
    }
    kept = tuple(Section(title, rows) for title, rows in sections.items() if rows)
    remarks = [remark for run in runs for remark in (*run.remarks, *unfinished_remarks(run))]
    if len({str(run.settings.get("data")) for run in runs}) > 1:
        remarks.append("the runs did not train on the same images: compare their figures with care")
    return ComparedRuns(
        tuple(run.name for run in runs),
        _answer(runs, kept),
        kept,
        _different_settings(runs),
        _charts(runs, logs),
        tuple(remarks),
    )


def write_comparison(path: str | Path, found: ComparedRuns) -> None:
    """Write the comparison as one HTML file that loads nothing, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    warnings = [(None, remark) for remark in found.remarks]
    write_text(path, render_template("comparison.html", side=1, found=found, warnings=warnings))


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many parts before it as it takes to distinguish all of them."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _best(row: ComparisonRow) -> list[bool]:
    return [place == row.best for place in range(len(row.cells))]


def _marked(cell: Cell, best: bool) -> str:
    return _cut(format_cell(cell)) + ("*" if best else " ")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"…{text[1 - MAX_CELL_CHARACTERS :]}"


def _rows(runs: Sequence[RunRecord], figures: NamedFigures) -> tuple[ComparisonRow, ...]:
    rows = [ComparisonRow(title, tuple(figure(run) for run in runs)) for title, figure in figures]
    return tuple(row for row in rows if any(cell is not None for cell in row.cells))


def _metric_rows(columns: Sequence[Mapping[str, float]], higher_is_better: bool = False) -> tuple[ComparisonRow, ...]:
    """A row for each metric that any run has."""
    rows = []
    for title in dict.fromkeys(title for column in columns for title in column):
        cells = tuple(column.get(title) for column in columns)
        known = [cell for cell in cells if cell is not None]
        compared = higher_is_better and len(known) > 1 and not title.endswith(NOT_SCORES)
        best = cells.index(max(known)) if compared and known.count(max(known)) == 1 else None
        rows.append(ComparisonRow(title, cells, best))
    return tuple(rows)


def _different_settings(runs: Sequence[RunRecord]) -> tuple[ComparisonRow, ...]:
    """The settings that are not the same in all runs, without those that affect only speed and those shown above."""
    skipped = ("run.", "method", "epochs", "backbone.name", "backbone.width")
    settings = [dict(flat_settings(run.settings)) for run in runs]
    paths = [path for path in dict.fromkeys(path for each in settings for path in each) if not path.startswith(skipped)]
    rows = [ComparisonRow(path, tuple(each.get(path) for each in settings)) for path in paths]
    return tuple(row for row in rows if len(set(map(str, row.cells))) > 1)


def _answer(runs: Sequence[RunRecord], sections: Sequence[Section]) -> str:
    """Which run is best according to the first probe that two of them have; of several k of kNN, k = 20 counts."""
    for section in sections:
        rows = sorted((row for row in section.rows if row.best is not None), key=lambda row: "k = 20" not in row.name)
        for row in rows[:1]:
            best, known = row.best or 0, sum(cell is not None for cell in row.cells)
            value = f"{row.name} is {format_cell(row.cells[best])} ({section.title.lower()})"
            return f"{runs[best].name} is the best of the {known} that were probed: {value}."
    return f"{len(runs)} runs side by side; no probe shows which is best: run coterie evaluate."


def _charts(runs: Sequence[RunRecord], label_free_logs: Sequence[list[dict[str, Any]]]) -> tuple[Chart, ...]:
    """A chart for each metric, with a curve for each run that has it, over the number of images processed."""
    names = [run.name for run in runs]
    drawn: dict[tuple[str, str], dict[str, Points]] = {}

    def add(title: str, note: str, run: RunRecord, points: Points | None) -> None:
        if points:
            processed = [((step + 1) * run.batch_size, value) for step, value in points]
            drawn.setdefault((title, note), {})[run.name] = processed

    for run in runs:
        add("Loss / ln K", "1 means uninformative predictions", run, _one_curve(run.log, "loss_over_ln_k"))
    for run in runs:
        add("Regularizer", "its part of the loss, in nats", run, _one_curve(run.log, "regularization"))
    for run in runs:
        add(REGULARIZER, REGULARIZER_NOTE, run, _one_curve(regularizer_percent(run.log), "percent"))
    for run, label_free in zip(runs, label_free_logs, strict=True):
        add("Spread of the embeddings", "0 means collapse", run, _one_curve(run.log, "spread"))
        for probe, curves in probe_curves(run.log).items():
            metric = "k = 20" if "k = 20" in curves else next(iter(curves))
            add(f"{probe}, {metric}", "during training", run, curves[metric])
        for _, _, keys, _ in LABEL_FREE_CHARTS:
            for key, title in keys.items():
                add(metric_title(title), "label-free, on uncropped images", run, _one_curve(label_free, key))
    span = (0.0, max((x for curves in drawn.values() for points in curves.values() for x, _ in points), default=0.0))
    return tuple(
        draw_chart(title, note, curves, span, unit="images", colors=names, from_zero=False)
        for (title, note), curves in drawn.items()
    )


def _one_curve(log: Log, key: str) -> Points | None:
    return named_curves(log, {key: key}).get(key)
