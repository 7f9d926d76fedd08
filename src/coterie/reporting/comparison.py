"""Several runs side by side: one table as plain data, as text for a terminal, and as one page with their curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.reporting import html as page
from coterie.reporting.chart import Chart, Points, draw_chart
from coterie.reporting.curves import LABEL_FREE, Log, label_free_log, named_curves, probe_curves, titled
from coterie.reporting.run_figures import (
    COST,
    LEARNING,
    THE_RUN,
    Cell,
    Run,
    label_free_figures,
    last_probes,
    leaves,
    probes,
    unfinished,
)

WIDEST = 24  # characters of a cell in a terminal
NO_SCORES = ("learning rate", "weight decay", "epochs", "images", "examples")
"""What a probe may tell beside its scores: more of it is not better."""


@dataclass(frozen=True)
class Line:
    """One figure of all runs; ``best`` is the place of the best, where more is better and there are two or more."""

    name: str
    cells: tuple[Cell, ...]
    best: int | None = None


@dataclass(frozen=True)
class Section:
    """Lines of one kind under a title."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class ComparedRuns:
    """Runs side by side, as plain data.

    Attributes:
        names: of the runs.
        answer: one sentence: which of them a probe finds best.
        sections: the table; each line has a cell for each run, None where a run has no such figure.
        settings: the lines of the settings that are not alike in all.
        charts: the curves of all runs over the images that they have seen.
        remarks: one line for each thing that is wrong with a run.
    """

    names: tuple[str, ...]
    answer: str
    sections: tuple[Section, ...]
    settings: tuple[Line, ...]
    charts: tuple[Chart, ...]
    remarks: tuple[str, ...] = ()


def compared(runs: Sequence[Run]) -> ComparedRuns:
    """Set runs side by side."""
    looks = [label_free_log(run.log) for run in runs]
    lasts = [look[-1] if look else {} for look in looks]
    sections = {
        "The run": _lines(runs, THE_RUN),
        "Is it learning?": _lines(runs, LEARNING),
        "Probes": _figures([probes(run) for run in runs], better=True),
        "Last probe while training": _figures([last_probes(run.log) for run in runs], better=True),
        "Last look without labels": _figures([label_free_figures(look) for look in lasts]),
        "Cost": _lines(runs, COST),
    }
    kept = tuple(Section(title, lines) for title, lines in sections.items() if lines)
    remarks = [remark for run in runs for remark in (*run.remarks, *unfinished(run))]
    if len({str(run.settings.get("data")) for run in runs}) > 1:
        remarks.append("they did not learn from the same images: compare their figures with care")
    return ComparedRuns(
        tuple(run.name for run in runs),
        _answer(runs, kept),
        kept,
        _differences(runs),
        _charts(runs, looks),
        tuple(remarks),
    )


def as_text(found: ComparedRuns) -> str:
    """The table for a terminal: a line a figure, a column a run; the best has a star, long texts lose their beginning."""
    sections = [*found.sections, *([Section("Settings that differ", found.settings)] if found.settings else [])]
    lines = [line for section in sections for line in section.lines]
    cells = {
        line: [
            _cut(page.value_text(cell)) + ("*" if place == line.best else " ") for place, cell in enumerate(line.cells)
        ]
        for line in lines
    }
    first = max((len(line.name) for line in lines), default=0) + 2
    columns = zip((f"{name} " for name in found.names), *cells.values(), strict=True)
    widths = [max(map(len, column)) for column in columns]

    def row(title: str, texts: Sequence[str]) -> str:
        return f"{title:<{first}}" + "".join(f"  {text:>{width}}" for text, width in zip(texts, widths, strict=True))

    shown = [row("", [f"{name} " for name in found.names])]
    for section in sections:
        shown += ["", section.title, *(row(f"  {line.name}", cells[line]) for line in section.lines)]
    return "\n".join([*(text.rstrip() for text in shown), "", *found.remarks, found.answer])


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else f"…{text[1 - WIDEST :]}"


def write_comparison(path: str | Path, found: ComparedRuns) -> None:
    """Write the comparison as one HTML file that loads nothing, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    warnings = [(None, remark) for remark in found.remarks]
    write_text(path, page.render("compare.html", side=1, found=found, warnings=warnings))


def _lines(runs: Sequence[Run], asked: Sequence[tuple[str, Callable[[Run], Cell]]]) -> tuple[Line, ...]:
    lines = [Line(title, tuple(ask(run) for run in runs)) for title, ask in asked]
    return tuple(line for line in lines if any(cell is not None for cell in line.cells))


def _figures(columns: Sequence[Mapping[str, float]], better: bool = False) -> tuple[Line, ...]:
    """A line for each figure that a run has."""
    lines = []
    for title in dict.fromkeys(title for column in columns for title in column):
        cells = tuple(column.get(title) for column in columns)
        known = [cell for cell in cells if cell is not None]
        tells = better and len(known) > 1 and not title.endswith(NO_SCORES)
        best = cells.index(max(known)) if tells and known.count(max(known)) == 1 else None
        lines.append(Line(title, cells, best))
    return tuple(lines)


def _differences(runs: Sequence[Run]) -> tuple[Line, ...]:
    """The settings that are not alike in all runs; those that change the speed alone, and those said above, left out."""
    said = ("run.", "method", "epochs", "backbone.name", "backbone.width")
    flat = [dict(leaves(run.settings)) for run in runs]
    paths = [path for path in dict.fromkeys(path for each in flat for path in each) if not path.startswith(said)]
    lines = [Line(path, tuple(each.get(path) for each in flat)) for path in paths]
    return tuple(line for line in lines if len(set(map(str, line.cells))) > 1)


def _answer(runs: Sequence[Run], sections: Sequence[Section]) -> str:
    """Which run the first probe that two of them share finds best; of several k, k = 20 is asked."""
    for section in sections:
        lines = sorted(
            (line for line in section.lines if line.best is not None), key=lambda line: "k = 20" not in line.name
        )
        for line in lines[:1]:
            best, known = line.best or 0, sum(cell is not None for cell in line.cells)
            found = f"{line.name} is {page.value_text(line.cells[best])} ({section.title.lower()})"
            return f"{runs[best].name} is the best of the {known} that were probed: {found}."
    return f"{len(runs)} runs side by side; no probe tells which of them is best: coterie evaluate does."


def _charts(runs: Sequence[Run], looks: Sequence[list[dict[str, Any]]]) -> tuple[Chart, ...]:
    """A drawing for each figure, a curve in it for each run that has it, over the images seen."""
    names = [run.name for run in runs]
    drawn: dict[tuple[str, str], dict[str, Points]] = {}

    def add(title: str, note: str, run: Run, points: Points | None) -> None:
        if points:
            seen = [((step + 1) * run.batch_size, value) for step, value in points]
            drawn.setdefault((title, note), {})[run.name] = seen

    for run, look in zip(runs, looks, strict=True):
        add("Loss / ln K", "at 1 the predictions know nothing", run, _curve(run.log, "loss_over_ln_k"))
        add("Spread of the embeddings", "0 is a collapse", run, _curve(run.log, "spread"))
        for probe, curves in probe_curves(run.log).items():
            metric = "k = 20" if "k = 20" in curves else next(iter(curves))
            add(f"{probe}, {metric}", "while training", run, curves[metric])
        for _, _, keys, _ in LABEL_FREE:
            for key, title in keys.items():
                add(titled(title), "on whole images, without labels", run, _curve(look, key))
    span = (0.0, max((x for curves in drawn.values() for points in curves.values() for x, _ in points), default=0.0))
    return tuple(
        draw_chart(title, note, curves, span, unit="images", colors=names, from_zero=False)
        for (title, note), curves in drawn.items()
    )


def _curve(log: Log, key: str) -> Points | None:
    return named_curves(log, {key: key}).get(key)
