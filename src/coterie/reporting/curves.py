"""What of a run's log is drawn, on its page and beside other runs; how it is drawn is in ``drawing``."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.reporting.chart import Chart, Points, draw_chart, is_number

MOST_CURVES = 3  # of one probe, in one drawing
LABEL_FREE: tuple[tuple[str, str, dict[str, str], float | None], ...] = (
    ("Rank of the embeddings", "directions", {"rankme": "RankMe", "effective_rank": "effective rank"}, None),
    ("LiDAR", "directions that tell images apart", {"lidar": "LiDAR"}, None),
    ("alpha-ReQ", "how fast the spectrum falls; best near 1", {"alpha_req": "alpha-ReQ"}, 1.0),
    (
        "Agreement and stability",
        "",
        {
            "agreement": "views agree",
            "agreement_above_chance": "agreement above chance",
            "stability": "neighbors stay",
        },
        None,
    ),
    ("Perplexity of whole images", "groups", {"perplexity": "perplexity"}, None),
    ("Spread of whole images", "0 is a collapse", {"spread": "spread"}, None),
)
"""The label-free figures: title, note, {key: name}, and the level to compare with."""
_WRITTEN = {"knn": "kNN", "svm": "SVM", "nmi": "NMI", "ari": "ARI", "map": "mAP", "kmeans": "k-means"}
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Charts:
    """Drawings that answer one question."""

    title: str
    charts: tuple[Chart, ...]


def charts(metrics: Log, warnings: Sequence[tuple[int, str]] = ()) -> tuple[Charts, ...]:
    """The curves that the lines of ``metrics.jsonl`` hold; what was not logged is left out.

    Args:
        metrics: lines as the run wrote them; a figure that is no number breaks its curve.
        warnings: (step, text), marked in every curve of the loss, of health and without labels.
    """
    steps = [float(line["step"]) for line in metrics if is_number(line.get("step"))]
    span = (0.0, max(steps, default=0.0))
    groups = max((int(line["groups"]) for line in metrics if is_number(line.get("groups"))), default=None)
    all_groups = None if groups is None else (float(groups), f"all {groups}")

    def one(
        title: str, note: str, curves: dict[str, Points], reference: tuple[float, str] | None = None, mark: bool = True
    ) -> tuple[Chart, ...]:
        if not curves:
            return ()
        return (draw_chart(title, note, curves, span, reference=reference, warnings=warnings if mark else ()),)

    def level_of(value: float | None) -> tuple[float, str] | None:
        return None if value is None else (value, f"{value:g}")

    def named(**names: str) -> dict[str, Points]:
        return named_curves(metrics, names)

    looks = label_free_log(metrics)
    known = {key for _, _, names, _ in LABEL_FREE for key in names} | {"perplexity_share"}  # perplexity in other words
    further = {key: titled(key) for look in looks for key in look if key not in known and key not in ("step", "epoch")}
    waiting = {title: [(step, 100 * value) for step, value in points] for title, points in named(data_wait="w").items()}
    parts = {
        "Is it learning?": (
            *one("Loss / ln K", "at 1 the predictions know nothing", named(loss_over_ln_k="loss"), (1.0, "1")),
            *one("Groups", "", named(groups_used="used", perplexity="perplexity"), all_groups),
            *one("Spread of the embeddings", "0 is a collapse", named(spread="spread")),
        ),
        "Probes while training": tuple(
            draw_chart(f"{probe}, %" if probe == "kNN" else probe, "", curves, span)
            for probe, curves in probe_curves(metrics).items()
        ),
        "Without labels": (
            *(
                chart
                for title, note, names, level in LABEL_FREE
                for chart in one(title, note, named_curves(looks, names), level_of(level))
            ),
            *(chart for key, title in further.items() for chart in one(title, "", named_curves(looks, {key: title}))),
        ),
        "Learning rate and speed": (
            *one("Learning rate", "", named(lr="learning rate"), mark=False),
            *one("Speed", "images per second", named(images_per_second="images per second"), mark=False),
            *one("Waiting for data", "% of the time", waiting, mark=False),
        ),
    }
    return tuple(Charts(title, found) for title, found in parts.items() if found)


def label_free_log(metrics: Log) -> list[dict[str, Any]]:
    """The label-free figures of the log as lines of their own, each with its step."""
    return [
        {**line["label_free"], "step": line.get("step"), "epoch": line.get("epoch")}
        for line in metrics
        if isinstance(line.get("label_free"), Mapping)
    ]


def named_curves(metrics: Log, names: Mapping[str, str]) -> dict[str, Points]:
    """``{name: points}``; a line that holds the key with something that is no finite number breaks its curve (NaN)."""
    curves: dict[str, Points] = {}
    for key, title in names.items():
        lines = [line for line in metrics if key in line and is_number(line.get("step"))]
        values = [(float(line["step"]), float(line[key]) if is_number(line[key]) else math.nan) for line in lines]
        if any(math.isfinite(value) for _, value in values):
            curves[title] = values
    return curves


def probe_curves(metrics: Log) -> dict[str, dict[str, Points]]:
    """``{probe: {metric: points}}`` of the probes that ran beside the training; of a kNN, one curve for each k."""
    probes: dict[str, dict[str, Points]] = {}
    for line in metrics:
        for probe, figures in line.items():
            if probe == "label_free" or not isinstance(figures, Mapping) or not is_number(line.get("step")):
                continue
            seen: set[str] = set()
            for metric, value in figures.items():
                title = _curve_name(str(metric))
                if title and title not in seen and is_number(value):  # the first of several temperatures
                    seen.add(title)
                    curve = probes.setdefault(titled(probe), {}).setdefault(title, [])
                    curve.append((float(line["step"]), float(value)))
    return {probe: dict(list(curves.items())[:MOST_CURVES]) for probe, curves in probes.items()}


def name(key: str) -> str:
    """A probe's or a figure's key as people write it: ``nmi`` is NMI, ``top1_accuracy`` is top 1 accuracy."""
    words = [_WRITTEN.get(word, re.sub(r"^(top|p|recall)(\d+)$", r"\1 \2", word)) for word in key.split("_")]
    return " ".join(words)


def titled(key: str) -> str:
    """The same at the head of a table or a drawing."""
    written = name(key)
    first = written.partition(" ")[0]
    return written if first != first.lower() else written[:1].upper() + written[1:]


def _curve_name(metric: str) -> str:
    """``k20_t0.07_top1`` is called ``k = 20``; others keep their names, and top 5 has none."""
    found = re.fullmatch(r"k(\d+)_t[\d.]+_top(\d)", metric)
    if found is None:
        return name(metric)
    return f"k = {found[1]}" if found[2] == "1" else ""
