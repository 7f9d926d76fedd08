"""What is said of a run when it is set beside others: each figure from its settings, its log or its evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coterie.reporting.chart import duration, is_number
from coterie.reporting.curves import LABEL_FREE, Log, name, probe_curves, titled
from coterie.reporting.html import value_text

Cell = str | float | None
KNN = "k20_t0.07_top1"
"""The one of the kNN probe's figures that runs are compared by."""


@dataclass(frozen=True)
class Run:
    """What is compared of a run.

    Attributes:
        name: unlike all others.
        settings: as they are in ``config.toml``.
        log: lines of ``metrics.jsonl``.
        evaluation: ``evaluation.json``.
        images: how many its source has; None: not known.
        parameters: of the backbone; None: no weights are saved.
        steps: that its newest checkpoint has done; None: there is no checkpoint.
        remarks: what is wrong with its folder.
    """

    name: str
    settings: Mapping[str, Any]
    log: Log
    evaluation: Mapping[str, Any]
    images: int | None = None
    parameters: int | None = None
    steps: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """Images a step; 0 if the settings do not say."""
        found = self.settings.get("batch_size")
        return found if isinstance(found, int) else 0


def seconds(run: Run) -> float | None:
    """How long the steps of a run took together, by its log; the time between two starts of a resumed run is not in it."""
    before, total = -1, 0.0
    for line in run.log:
        speed = line.get("images_per_second")
        if is_number(speed) and speed > 0:
            total += (line["step"] - before) * run.batch_size / speed
            before = line["step"]
    return total or None


def _last(run: Run, key: str) -> Any:
    return next((line[key] for line in reversed(run.log) if key in line), None)


def _at(settings: Any, path: str) -> Any:
    for part in path.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _backbone(run: Run) -> str:
    width = _at(run.settings, "backbone.width")
    return str(_at(run.settings, "backbone.name")) + (f" x {width:g}" if is_number(width) and width != 1 else "")


def _epochs(run: Run) -> Cell:
    wanted, reached = run.settings.get("epochs"), _last(run, "epoch")
    if not unfinished(run) or not is_number(wanted):
        return wanted
    per_epoch = (run.images or 0) // run.batch_size if run.batch_size else 0
    if run.steps is not None and per_epoch:
        return f"{value_text(run.steps / per_epoch)} of {wanted}"
    return None if reached is None else f"{reached + 1} of {wanted}"


def unfinished(run: Run) -> tuple[str, ...]:
    """A line if the run has not come to its end, as far as can be told."""
    if run.steps is None:
        return (f"{run.name} has no checkpoint yet: its last figures are those of its log",)
    wanted = run.settings.get("epochs")
    if not is_number(wanted) or run.images is None or not run.batch_size:
        return ()
    total = wanted * (run.images // run.batch_size)
    return (f"{run.name} is unfinished: {run.steps:,} of {total:,} steps are saved",) if run.steps < total else ()


def _used(run: Run) -> Cell:
    used, groups = _last(run, "groups_used"), _last(run, "groups")
    return None if used is None else f"{used} of {groups}"


def _speed(run: Run) -> Cell:
    took, steps = seconds(run), max((line["step"] + 1 for line in run.log if "images_per_second" in line), default=0)
    return None if took is None else steps * run.batch_size / took


def _waiting(run: Run) -> Cell:
    shares = [line["data_wait"] for line in run.log if is_number(line.get("data_wait"))]
    return 100 * sum(shares) / len(shares) if shares else None


def _time(run: Run) -> Cell:
    took = seconds(run)
    return None if took is None else duration(took)


THE_RUN: tuple[tuple[str, Callable[[Run], Cell]], ...] = (
    ("method", lambda run: run.settings.get("method")),
    ("backbone", _backbone),
    ("parameters, million", lambda run: None if run.parameters is None else run.parameters / 1e6),
    ("images", lambda run: run.images),
    ("epochs", _epochs),
)
LEARNING: tuple[tuple[str, Callable[[Run], Cell]], ...] = (
    ("loss / ln K", lambda run: _last(run, "loss_over_ln_k")),
    ("groups used", _used),
    ("spread", lambda run: _last(run, "spread")),
    ("warnings", lambda run: sum("warning" in line for line in run.log) if run.log else None),
)
COST: tuple[tuple[str, Callable[[Run], Cell]], ...] = (
    ("time of the steps", _time),
    ("images per second", _speed),
    ("waiting for data, %", _waiting),
)


def probes(run: Run) -> dict[str, float]:
    """The figures of ``evaluation.json``; of the kNN probe one."""
    found: dict[str, float] = {}
    for probe, figures in run.evaluation.items():
        if probe == "knn" and isinstance(figures, Mapping) and is_number(figures.get(KNN)):
            found["kNN, k = 20, top 1"] = float(figures[KNN])
        else:
            found |= _flat(titled(probe), figures)
    return found


def _flat(title: str, figures: Any) -> dict[str, float]:
    if isinstance(figures, Mapping):
        return {
            key: value
            for part, inner in figures.items()
            for key, value in _flat(f"{title}, {name(part)}", inner).items()
        }
    return {title: float(figures)} if is_number(figures) else {}


def last_probes(log: Log) -> dict[str, float]:
    """The last figures of the probes that ran beside the training."""
    return {
        f"{probe}, {metric}": points[-1][1]
        for probe, curves in probe_curves(log).items()
        for metric, points in curves.items()
    }


def label_free_figures(look: Mapping[str, Any]) -> dict[str, float]:
    """The label-free figures under the names that they have in drawings."""
    titles = {key: title for _, _, names, _ in LABEL_FREE for key, title in names.items()}
    return {
        titles.get(key, name(key)): float(value)
        for key, value in look.items()
        if key not in ("step", "epoch") and is_number(value)
    }


def leaves(value: Any, path: str = "") -> list[tuple[str, Cell]]:
    """(path, value) of every setting."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, f"{path}.{number}")]
    if isinstance(value, list):
        return [(path, ", ".join(value_text(each) for each in value) or "none")]
    return [(path, value if is_number(value) else str(value).lower() if isinstance(value, bool) else str(value))]
