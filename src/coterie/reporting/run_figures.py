"""What a comparison shows of one run: each figure from its settings, its log, its evaluation or its files."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from coterie.config.toml import read_run_toml
from coterie.evaluation.evaluation_file import evaluations
from coterie.evaluation.results import KNN_METRIC, flat_figures, is_compared
from coterie.formatting import format_cell, format_duration, is_number, metric_name, metric_title
from coterie.reporting.curves import LABEL_FREE_CHARTS, Log, probe_curves, regularizer_percent
from coterie.training import checkpoint_io
from coterie.training.run_folder import read_records

Cell = str | float | None
"""A value of a table; None: the run has no such figure."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of tensors that are not parameters."""


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder records it.

    Attributes:
        name: unique among the runs that are compared.
        settings: content of ``config.toml``.
        log: lines of ``metrics.jsonl``.
        evaluation: content of ``evaluation.json``.
        images: number of images of its source; None: unknown.
        parameters: number of parameters of the backbone; None: no weights are saved.
        steps: number of steps at its latest checkpoint; None: there is no checkpoint.
        remarks: a line for each thing that is wrong with its folder.
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
        """Images per step; 0 if the settings do not contain it."""
        found = self.settings.get("batch_size")
        return found if isinstance(found, int) else 0


def read_run_record(folder: Path, name: str) -> RunRecord:
    """Read a run's folder; what is missing or damaged is left out.

    Args:
        folder: of the run.
        name: what to call it.

    Raises:
        BadRun: the folder has no ``config.toml``.
    """
    settings = read_run_toml(folder)
    records, checkpoints = read_records(folder), checkpoint_io.list_checkpoints(folder / "checkpoint")
    images = records.facts.get("images")
    return RunRecord(
        name,
        settings,
        records.log,
        records.evaluation,
        images=images if isinstance(images, int) else None,
        parameters=_parameters(folder / "model.safetensors"),
        steps=checkpoints[0][0] if checkpoints else None,
        remarks=records.remarks,
    )


def training_seconds(run: RunRecord) -> float | None:
    """Total time of a run's steps according to its log, without the time between a stop and the next start."""
    before, total = -1, 0.0
    for line in run.log:
        speed = line.get("images_per_second")
        if is_number(speed) and speed > 0:
            total += (line["step"] - before) * run.batch_size / speed
            before = line["step"]
    return total or None


def unfinished_remarks(run: RunRecord) -> tuple[str, ...]:
    """A line if the run has not finished, as far as its folder shows; otherwise nothing."""
    if run.steps is None:
        return (f"{run.name} has no checkpoint yet: its latest figures are those of its log",)
    epochs = run.settings.get("epochs")
    if not is_number(epochs) or run.images is None or not run.batch_size:
        return ()
    total, limit = epochs * (run.images // run.batch_size), run.settings.get("images")
    total = min(total, max(1, limit // run.batch_size)) if isinstance(limit, int) else total
    return (f"{run.name} is unfinished: {run.steps:,} of {total:,} steps are saved",) if run.steps < total else ()


def probe_figures(run: RunRecord) -> dict[str, float]:
    """The latest results of ``evaluation.json`` by name: of kNN only ``KNN_METRIC``, of fine-tuning each number of labels."""
    found: dict[str, float] = {}
    for each in evaluations(run.evaluation):
        if each.set is not None:
            figures = {name: value for name, value in flat_figures(each.figures).items() if is_compared(name)}
            found |= _flat("Transfer", {each.set: figures})
            continue
        for probe, metrics in each.figures.items():
            if probe == "knn" and is_number(metrics.get(KNN_METRIC)):
                found["kNN, k = 20, top 1"] = float(metrics[KNN_METRIC])
                continue
            title = metric_title(probe)
            if probe == "finetune":
                title += _labels_used(each.asked)
            found |= _flat(title, metrics)
    return found


def _labels_used(asked: Mapping[str, Any]) -> str:
    """With which labels a network was fine-tuned, and by which recipe if one was named."""
    share, number, listed = (asked.get(name) for name in ("label_fraction", "labels_per_class", "label_list"))
    labels = f"{share} of the labels" if share else f"{number} labels per class" if number else listed
    recipe = f"the {asked['recipe']} recipe" if asked.get("recipe") else None
    said = [each for each in (labels, recipe) if each]
    return f" ({', '.join(said)})" if said else ""


def latest_probe_figures(log: Log) -> dict[str, float]:
    """The latest results, by name, of the probes that ran during training."""
    return {
        f"{probe}, {metric}": points[-1][1]
        for probe, curves in probe_curves(log).items()
        for metric, points in curves.items()
    }


def label_free_figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The label-free metrics of a line of :func:`coterie.reporting.curves.label_free_log`, by their names in charts."""
    titles = {key: title for _, _, names, _ in LABEL_FREE_CHARTS for key, title in names.items()}
    return {
        titles.get(key, metric_name(key)): float(value)
        for key, value in line.items()
        if key not in ("step", "epoch") and is_number(value)
    }


def flat_settings(value: Any, path: str = "") -> list[tuple[str, Cell]]:
    """(path, value) of every setting below ``path``; a constant schedule is its value."""
    if isinstance(value, Mapping) and value.get("kind") == "constant":
        return flat_settings(value.get("value"), path)
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in flat_settings(inner, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return [leaf for number, inner in enumerate(value) for leaf in flat_settings(inner, f"{path}.{number}")]
    if isinstance(value, list):
        return [(path, ", ".join(format_cell(each) for each in value) or "none")]
    return [(path, value if is_number(value) else str(value).lower() if isinstance(value, bool) else str(value))]


def _parameters(file: Path) -> int | None:
    """Number of parameters in a file of weights, according to its header."""
    try:
        with safetensors.safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not name.endswith(BUFFERS)]  # noqa: SIM118 -- it is no dictionary
            sizes: list[list[int]] = [opened.get_slice(name).get_shape() for name in names]
    except (OSError, safetensors.SafetensorError):
        return None
    return sum(map(math.prod, sizes))


def _latest(run: RunRecord, key: str) -> Any:
    return next((line[key] for line in reversed(run.log) if key in line), None)


def _at(settings: Any, path: str) -> Any:
    for part in path.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _backbone(run: RunRecord) -> str:
    width = _at(run.settings, "backbone.width")
    return str(_at(run.settings, "backbone.name")) + (f" x {width:g}" if is_number(width) and width != 1 else "")


def _epochs(run: RunRecord) -> Cell:
    epochs, reached = run.settings.get("epochs"), _latest(run, "epoch")
    if not unfinished_remarks(run) or not is_number(epochs):
        return epochs
    steps_per_epoch = (run.images or 0) // run.batch_size if run.batch_size else 0
    if run.steps is not None and steps_per_epoch:
        return f"{format_cell(run.steps / steps_per_epoch)} of {epochs}"
    return None if reached is None else f"{reached + 1} of {epochs}"


def _regularizer_percent(run: RunRecord) -> Cell:
    shares = regularizer_percent(run.log)
    return shares[-1]["percent"] if shares else None


def _groups_used(run: RunRecord) -> Cell:
    used, groups = _latest(run, "groups_used"), _latest(run, "groups")
    return None if used is None else f"{used} of {groups}"


def _images_per_second(run: RunRecord) -> Cell:
    seconds = training_seconds(run)
    steps = max((line["step"] + 1 for line in run.log if "images_per_second" in line), default=0)
    return None if seconds is None else steps * run.batch_size / seconds


def _waiting_percent(run: RunRecord) -> Cell:
    shares = [line["data_wait"] for line in run.log if is_number(line.get("data_wait"))]
    return 100 * sum(shares) / len(shares) if shares else None


def _training_time(run: RunRecord) -> Cell:
    seconds = training_seconds(run)
    return None if seconds is None else format_duration(seconds)


def _flat(title: str, metrics: Any) -> dict[str, float]:
    if isinstance(metrics, Mapping):
        return {
            key: value
            for part, inner in metrics.items()
            for key, value in _flat(f"{title}, {metric_name(part)}", inner).items()
        }
    return {title: float(metrics)} if is_number(metrics) else {}


NamedFigures = tuple[tuple[str, Callable[[RunRecord], Cell]], ...]
THE_RUN: NamedFigures = (
    ("method", lambda run: run.settings.get("method")),
    ("backbone", _backbone),
    ("parameters, million", lambda run: None if run.parameters is None else run.parameters / 1e6),
    ("images", lambda run: run.images),
    ("epochs", _epochs),
)
LEARNING: NamedFigures = (
    ("loss / ln K", lambda run: _latest(run, "loss_over_ln_k")),
    ("regularizer, part of the loss", lambda run: _latest(run, "regularization")),
    ("regularizer, % of the gradient", _regularizer_percent),
    ("groups used", _groups_used),
    ("spread", lambda run: _latest(run, "spread")),
    ("warnings", lambda run: sum("warning" in line for line in run.log) if run.log else None),
)
COST: NamedFigures = (
    ("time of the steps", _training_time),
    ("images per second", _images_per_second),
    ("waiting for data, %", _waiting_percent),
)
