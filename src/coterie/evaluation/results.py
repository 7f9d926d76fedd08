"""What probes found: dictionaries that print as a headline and a table, and as tables in a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from coterie.formatting import end_of, is_number
from coterie.table import ShownInTables, TextTable

Figures = dict[str, dict[str, float]]
"""``{probe: {metric: value}}``."""
KNN_METRIC = "k20_t0.07_top1"
"""The one metric of the kNN probe by which models are compared."""
RAW_PIXELS, UNTRAINED, THIS = "raw pixels", "untrained network", "this model"
"""Names of the rows that every comparison has."""
WIDTH = 100
"""Characters of a line of a table, at most."""


class Leading(NamedTuple):
    """The one metric of a probe by which models are compared, in percent, and how columns and sentences name the probe."""

    probe: str
    metric: str
    column: str
    name: str
    by: str


LEADING = (
    Leading("knn", KNN_METRIC, "kNN", "kNN", "20-NN"),
    Leading("linear", "top1", "linear", "linear classifier", "a linear probe"),
    Leading("linear_published", "top1", "linear SGD", "linear classifier (SGD)", "a linear probe (SGD)"),
    Leading("linear_images", "top1", "linear crops", "linear classifier (crops)", "a linear probe (crops)"),
    Leading("finetune", "top1", "fine-tuned", "fine-tuning", "fine-tuning"),
    Leading("svm", "map", "SVM mAP", "SVM mAP", "SVM (mAP)"),
    Leading("retrieval", "map", "retrieval mAP", "retrieval mAP", "retrieval (mAP)"),
    Leading("clusters", "kmeans_hungarian_accuracy", "k-means", "k-means clusters", "k-means"),
)
"""In the order in which they are named."""
_NOT_PERCENT = ("penalty", "learning_rate", "nmi", "ari", "classes", "left_out", "labels", "ungrouped")


class ProbeResults(ShownInTables, Figures):
    """``{probe: {metric: value}}`` of a model, with what the same probes find without it beside it.

    Attributes:
        baselines: the same of raw pixels, of the untrained network and of other models, by name.
        details: whether every metric is printed too.
    """

    def __init__(
        self, figures: Mapping[str, dict[str, float]] | None = None, baselines: Mapping[str, Figures] | None = None
    ) -> None:
        """Hold the figures of a model, and of its baselines."""
        super().__init__(figures or {})
        self.baselines: dict[str, Figures] = dict(baselines or {})
        self.details = False

    def tables(self) -> Sequence[TextTable | str]:
        """A headline and a row per model; then every metric, or those of the probes that the table does not show."""
        compared = [each for each in LEADING if any(_value(rows, each) is not None for rows in self.baselines.values())]
        rest = {name: metrics for name, metrics in self.items() if name not in {each.probe for each in compared}}
        listed = self if self.details else rest
        parts: list[TextTable | str] = []
        if compared:
            rows = {**self.baselines, THIS: self}
            parts = [headline(rows, compared), "", _compared(rows, compared)]
        if listed:
            lines = [
                (probe, name, format_metric(name, value))
                for probe, each in listed.items()
                for name, value in each.items()
            ]
            parts += [*([""] if parts else []), TextTable(("", "", ""), tuple(lines), "<<>")]
        return parts


class TransferResults(ShownInTables, dict[str, dict[str, float]]):
    """``{set: {probe_metric: value}}`` of a model on several sets.

    Attributes:
        results: by set, the :class:`ProbeResults` with their baselines.
        details: whether every metric is printed too.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        super().__init__()
        self.results: dict[str, ProbeResults] = {}
        self.details = False

    @property
    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """By set and name of the baseline, its ``{probe_metric: value}``."""
        return {
            name: {baseline: flat_figures(figures) for baseline, figures in found.baselines.items()}
            for name, found in self.results.items()
        }

    def add(self, name: str, found: ProbeResults) -> None:
        """Add what was found on a set."""
        self.results[name], self[name] = found, flat_figures(found)

    def tables(self) -> Sequence[TextTable | str]:
        """The mean over the sets in a sentence, and a block of rows per set: a column per probe."""
        shown = [each for each in LEADING if any(_value(found, each) is not None for found in self.results.values())]
        rows: list[tuple[str, ...]] = []
        for name, found in self.results.items():
            if found.baselines:
                rows += [(name, *("" for _ in shown))]
                rows += [
                    _row(f"  {each}", figures, shown) for each, figures in {**found.baselines, THIS: found}.items()
                ]
            else:
                rows += [_row(name, found, shown)]
        parts: list[TextTable | str] = []
        if shown:
            parts = [f"mean of {len(self)} sets: {headline(self._means(), shown)}", ""] if len(self) > 1 else []
            parts.append(_table(rows, shown))
        known = {each.probe for each in shown}
        lines = [
            (name, probe, metric, format_metric(metric, value))
            for name, found in self.results.items()
            for probe, metrics in found.items()
            for metric, value in metrics.items()
            if self.details or probe not in known
        ]
        return [
            *parts,
            *([""] if parts and lines else []),
            *([TextTable(("",) * 4, tuple(lines), "<<<>")] if lines else []),
        ]

    def _means(self) -> dict[str, Figures]:
        """The mean over all sets of each leading metric that all sets have."""
        everywhere = [{**found.baselines, THIS: found} for found in self.results.values()]
        means: dict[str, Figures] = {}
        for name in everywhere[0]:
            rows = [each.get(name, {}) for each in everywhere]
            for leading in LEADING:
                values = [value for each in rows if (value := _value(each, leading)) is not None]
                if len(values) == len(everywhere):
                    means.setdefault(name, {})[leading.probe] = {leading.metric: sum(values) / len(values)}
        return means


def headline(rows: Mapping[str, Mapping[str, Mapping[str, float]]], compared: Sequence[Leading]) -> str:
    """Say in one sentence how good the last row is, and how much better than the others.

    Args:
        rows: ``{probe: {metric: value}}`` by name; the last one is the model.
        compared: the probes to name; the first one that others have too is compared.
    """
    name, own = list(rows.items())[-1]
    known = [(each, value) for each in compared if (value := _value(own, each)) is not None]
    figures = ", ".join(f"{value:.1f} % by {each.by}" for each, value in known)
    others = {title: figures for title, figures in rows.items() if title != name}
    for each, value in known:
        gains = [
            _gain(value - other, f"the {title}" if title == UNTRAINED else title)
            for title, figures in others.items()
            if (other := _value(figures, each)) is not None
        ]
        if gains:
            which = f"by {each.by} " if len(known) > 1 else ""
            return f"{name}: {figures}; {which}{', '.join(gains)}"
    return f"{name}: {figures}"


def format_metric(name: str, value: float) -> str:
    """Write a metric: one decimal if it is in percent, else four significant digits."""
    return f"{value:.4g}" if name.endswith(_NOT_PERCENT) else f"{value:.1f}"


def metric_table(metrics: Mapping[str, Mapping[str, float]]) -> TextTable:
    """One row per name, one column per metric; a dash where a row does not have it."""
    names = list(dict.fromkeys(name for each in metrics.values() for name in each))
    rows = [
        (title, *(f"{each[name]:.4g}" if name in each else "-" for name in names)) for title, each in metrics.items()
    ]
    return TextTable(("", *names), tuple(rows))


def flat_figures(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """``{probe: {metric: value}}`` as ``{"probe_metric": value}``."""
    return {f"{probe}_{metric}": value for probe, metrics in figures.items() for metric, value in metrics.items()}


def is_compared(name: str) -> bool:
    """Whether runs are compared by ``probe_metric``: of kNN only by the metric that is leading."""
    return not name.startswith("knn_k") or name == f"knn_{KNN_METRIC}"


def leading_figures(figures: Mapping[str, object]) -> dict[Leading, float]:
    """The leading metric of each probe that has one, in the order of :data:`LEADING`.

    Args:
        figures: ``{probe: {metric: value}}``; anything else is left out.
    """
    found = ((each, figures.get(each.probe)) for each in LEADING)
    values = ((each, inner.get(each.metric)) for each, inner in found if isinstance(inner, Mapping))
    return {each: float(value) for each, value in values if is_number(value)}


def _gain(points: float, name: str) -> str:
    return f"{points:+.1f} over {name}" if points >= 0 else f"{-points:.1f} below {name}"


def _value(figures: Mapping[str, Mapping[str, float]], leading: Leading) -> float | None:
    return figures.get(leading.probe, {}).get(leading.metric)


def _compared(rows: Mapping[str, Mapping[str, Mapping[str, float]]], shown: Sequence[Leading]) -> TextTable:
    return _table([_row(name, figures, shown) for name, figures in rows.items()], shown)


def _row(name: str, figures: Mapping[str, Mapping[str, float]], shown: Sequence[Leading]) -> tuple[str, ...]:
    values = (_value(figures, each) for each in shown)
    return name, *("-" if value is None else f"{value:.1f}" for value in values)


def _table(rows: Iterable[tuple[str, ...]], shown: Sequence[Leading]) -> TextTable:
    """A table that fits into a line; of a name that is too long the end stays."""
    header = ("top-1, %", *(each.column for each in shown))
    room = max(12, WIDTH - sum(2 + max(5, len(title)) for title in header[1:]))
    cut = ((end_of(name, room), *cells) for name, *cells in rows)
    return TextTable(header, tuple(cut), "<" + ">" * len(shown))
