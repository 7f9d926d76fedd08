"""Which metrics of a run's log are drawn, in its report and in comparisons. How they are drawn is in ``chart``."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.formatting import is_number, metric_name, metric_title
from coterie.reporting.chart import Chart, Points, draw_chart
from coterie.training.monitor import LARGEST_REGULARIZER

MAX_PROBE_CURVES = 3  # of one probe, in one chart
LABEL_FREE_CHARTS: tuple[tuple[str, str, dict[str, str], float | None], ...] = (
    ("Rank of the embeddings", "directions", {"rankme": "RankMe", "effective_rank": "effective rank"}, None),
    ("LiDAR", "directions that distinguish images", {"lidar": "LiDAR"}, None),
    ("alpha-ReQ", "decay of the spectrum; best near 1", {"alpha_req": "alpha-ReQ"}, 1.0),
    (
        "Agreement and stability",
        "",
        {
            "agreement": "agreement of views",
            "agreement_above_chance": "agreement above chance",
            "stability": "stability of neighbors",
        },
        None,
    ),
    ("Perplexity of uncropped images", "groups", {"perplexity": "perplexity"}, None),
    ("Spread of uncropped images", "0 means collapse", {"spread": "spread"}, None),
)
"""Charts of the label-free metrics: title, note, {key: name}, and a level to compare with."""
REGULARIZER, REGULARIZER_NOTE = "The regularizer's share", "% of the gradient"
PERCENT, TOO_HEAVY = {"percent": "regularizer"}, (100 * LARGEST_REGULARIZER, "too heavy above this")
LOSS_PARTS = {"predictions": "predictions", "regularization": "regularizer"}
Log = Sequence[Mapping[str, Any]]
"""Lines of ``metrics.jsonl``."""


@dataclass(frozen=True)
class ChartGroup:
    """Charts that answer one question."""

    title: str
    charts: tuple[Chart, ...]


def run_charts(log: Log, warnings: Sequence[tuple[int, str]] = ()) -> tuple[ChartGroup, ...]:
    """Draw the curves of a run's log; metrics that were not logged are left out.

    Args:
        log: lines of ``metrics.jsonl``; a value that is not a finite number breaks its curve.
        warnings: (step, text), marked in all charts of the loss, of the health of the run and of label-free metrics.
    """
    steps = [float(line["step"]) for line in log if is_number(line.get("step"))]
    span = (0.0, max(steps, default=0.0))
    groups = max((int(line["groups"]) for line in log if is_number(line.get("groups"))), default=None)
    all_groups = None if groups is None else (float(groups), f"all {groups}")

    def one(
        title: str, note: str, curves: dict[str, Points], reference: tuple[float, str] | None = None, mark: bool = True
    ) -> tuple[Chart, ...]:
        if not curves:
            return ()
        return (draw_chart(title, note, curves, span, reference=reference, warnings=warnings if mark else ()),)

    def named(**names: str) -> dict[str, Points]:
        return named_curves(log, names)

    label_free = label_free_log(log)
    # perplexity_share is perplexity in other units
    known = {key for _, _, names, _ in LABEL_FREE_CHARTS for key in names} | {"perplexity_share", "step", "epoch"}
    others = {key: metric_title(key) for line in label_free for key in line if key not in known}
    waiting = {title: [(step, 100 * value) for step, value in points] for title, points in named(data_wait="w").items()}
    parts = {
        "Is it learning?": (
            *one("Loss / ln K", "1 means uninformative predictions", named(loss_over_ln_k="loss"), (1.0, "1")),
            *one("Parts of the loss", "in nats", named_curves(loss_parts(log), LOSS_PARTS)),
            *one(REGULARIZER, REGULARIZER_NOTE, named_curves(regularizer_percent(log), PERCENT), TOO_HEAVY),
            *one("Groups", "", named(groups_used="used", perplexity="perplexity"), all_groups),
            *one("Spread of the embeddings", "0 means collapse", named(spread="spread")),
        ),
        "Probes during training": tuple(
            draw_chart(f"{probe}, %" if probe == "kNN" else probe, "", curves, span)
            for probe, curves in probe_curves(log).items()
        ),
        "Label-free metrics": (
            *(
                chart
                for title, note, names, level in LABEL_FREE_CHARTS
                for chart in one(
                    title, note, named_curves(label_free, names), None if level is None else (level, f"{level:g}")
                )
            ),
            *(
                chart
                for key, title in others.items()
                for chart in one(title, "", named_curves(label_free, {key: title}))
            ),
        ),
        "Learning rate and speed": (
            *one("Learning rate", "", named(lr="learning rate"), mark=False),
            *one("Speed", "images per second", named(images_per_second="images per second"), mark=False),
            *one("Waiting for data", "% of the time", waiting, mark=False),
        ),
    }
    return tuple(ChartGroup(title, charts) for title, charts in parts.items() if charts)


def loss_parts(log: Log) -> list[dict[str, Any]]:
    """Extract from a log what the predictions cost and what the regularizer adds, at the steps of runs that have one."""
    return [
        {**line, "predictions": line["loss"] - line["regularization"]}
        for line in log
        if is_number(line.get("regularization")) and is_number(line.get("loss"))
    ]


def regularizer_percent(log: Log) -> list[dict[str, Any]]:
    """Extract the share of the gradient that is a regularizer's, in percent, at the steps of runs that have one."""
    return [
        {"step": line.get("step"), "percent": 100 * line["regularizer_gradient"]}
        for line in log
        if is_number(line.get("regularizer_gradient"))
    ]


def label_free_log(log: Log) -> list[dict[str, Any]]:
    """Extract the label-free metrics of a log as lines of their own, each with its step and epoch."""
    return [
        {**line["label_free"], "step": line.get("step"), "epoch": line.get("epoch")}
        for line in log
        if isinstance(line.get("label_free"), Mapping)
    ]


def named_curves(log: Log, names: Mapping[str, str]) -> dict[str, Points]:
    """Extract the curves of some metrics from a log.

    Args:
        log: lines with a step each.
        names: ``{key: name of its curve}``.

    Returns:
        ``{name: points}`` of the metrics that have a finite value; other values of theirs become NaN, which breaks a curve.
    """
    curves: dict[str, Points] = {}
    for key, name in names.items():
        lines = [line for line in log if key in line and is_number(line.get("step"))]
        values = [(float(line["step"]), float(line[key]) if is_number(line[key]) else math.nan) for line in lines]
        if any(math.isfinite(value) for _, value in values):
            curves[name] = values
    return curves


def probe_curves(log: Log) -> dict[str, dict[str, Points]]:
    """Extract ``{probe: {metric: points}}`` of the probes that ran during training; of kNN, one curve for each k."""
    probes: dict[str, dict[str, Points]] = {}
    for line in log:
        for probe, metrics in line.items():
            if probe == "label_free" or not isinstance(metrics, Mapping) or not is_number(line.get("step")):
                continue
            seen: set[str] = set()
            for metric, value in metrics.items():
                name = _curve_name(str(metric))
                if name and name not in seen and is_number(value):  # of several temperatures the first
                    seen.add(name)
                    curve = probes.setdefault(metric_title(probe), {}).setdefault(name, [])
                    curve.append((float(line["step"]), float(value)))
    return {probe: dict(list(curves.items())[:MAX_PROBE_CURVES]) for probe, curves in probes.items()}


def _curve_name(metric: str) -> str:
    """Name a metric's curve: ``k20_t0.07_top1`` becomes ``k = 20``, and top 5 accuracies of kNN have none (empty)."""
    found = re.fullmatch(r"k(\d+)_t[\d.]+_top(\d)", metric)
    if found is None:
        return metric_name(metric)
    return f"k = {found[1]}" if found[2] == "1" else ""
