"""Which snapshot of a run to take, and whether to stop early, from the label-free metrics in the run's log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coterie.errors import BadRun
from coterie.evaluation.results import metric_table
from coterie.table import ShownInTables, TextTable

RANKED = ("effective_rank", "perplexity_share")
"""Snapshots are chosen by their mean rank in these metrics (higher is better); a metric that a method lacks is skipped."""
COLLAPSED = {"spread": 0.1, "perplexity": 1.5, "perplexity_share": 0.02}
"""Below these values the embeddings of different images are nearly one point (as in the log of a run), or nearly all of them
are in one or a few of the groups."""
MIN_STABILITY = 0.6
"""If neighbors have at least this share in common from one snapshot to the next, little changes any more."""
MIN_SNAPSHOTS = 5
"""With fewer snapshots than this, no run is said to have plateaued."""


@dataclass(frozen=True)
class SnapshotRecord:
    """What the log of a run says about it at one step.

    Attributes:
        step: of the log.
        epoch: of the log.
        snapshot: file of the weights, relative to the run's folder; "" if none was saved.
        figures: label-free metrics by name.
        knn: kNN accuracy in percent; None if no probe ran at this step.
        score: mean rank among the compared snapshots, from 0 (worst) to 1; None if it was not compared.
        remark: why it was not compared.
    """

    step: int
    epoch: float
    snapshot: str
    figures: dict[str, float]
    knn: float | None = None
    score: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Selection(ShownInTables):
    """The snapshot to take; ``print`` shows what ``coterie select`` prints.

    Attributes:
        snapshot: file of its weights, relative to the run's folder.
        step: at which it was saved.
        epoch: in which it was saved.
        table: every snapshot that could have been chosen, in order of the steps.
        reasons: sentences that say why this one, and how certain the choice is.
    """

    snapshot: str
    step: int
    epoch: float
    table: tuple[SnapshotRecord, ...]
    reasons: tuple[str, ...]

    def tables(self) -> Sequence[TextTable | str]:
        """The snapshot and the reasons for it, then the metrics of all snapshots; a star marks the one to take."""
        metrics: dict[str, dict[str, float]] = {}
        for row in self.table:
            scores = {"score": row.score, "knn": row.knn}
            known = {name: value for name, value in scores.items() if value is not None}
            metrics[f"{'*' if row.step == self.step else ' '} {row.snapshot}"] = known | row.figures
        return [self.snapshot, *self.reasons, "", metric_table(metrics)]


def select_snapshot(log: Sequence[Mapping[str, Any]], by: Literal["label_free", "knn"] = "label_free") -> Selection:
    """Choose a snapshot from the log of a run.

    Snapshots that look collapsed (a metric of ``COLLAPSED`` below its limit) are left out. Of the others the one with the
    best mean rank in the metrics of ``RANKED`` is taken, of equals the latest. kNN accuracy, if the log contains it, is
    only reported for comparison; with ``by="knn"`` it decides.

    Args:
        log: the lines of ``metrics.jsonl``.
        by: what decides.

    Raises:
        BadRun: no line has both label-free metrics and a snapshot, or none has the metrics that decide.
    """
    found = [record for record in snapshot_records(log) if record.snapshot]
    if not found:
        raise BadRun(
            "there is no checkpoint to choose: the log of this run has no label-free metrics of a snapshot; they are "
            "computed during training, so train again, or take the final weights"
        )
    marked = [_with_remark(record) for record in found]
    sound = [record for record in marked if not record.remark] or marked
    names = ("knn",) if by == "knn" else tuple(name for name in RANKED if all(name in each.figures for each in sound))
    compared = [record for record in sound if record.knn is not None] if by == "knn" else sound
    if not compared or not names:
        wanted = "kNN accuracy (give labeled images with --probe)" if by == "knn" else f"{' or '.join(RANKED)} in all"
        raise BadRun(f"there is nothing to choose by: the snapshots of this run have no {wanted}")
    scored = _scored(compared, names)
    chosen = max(scored, key=lambda record: (record.score, record.step))
    table = tuple({record.step: record for record in (*marked, *scored)}[record.step] for record in found)
    reasons = [*_left_out(table, sound), *_reasons(chosen, scored, names)]
    if by != "knn":
        reasons += _comparison_with_knn(chosen, sound)
    return Selection(chosen.snapshot, chosen.step, chosen.epoch, table, tuple(reasons))


def plateau_reason(log: Sequence[Mapping[str, Any]], patience: int = 3, tolerance: float = 0.02) -> str | None:
    """Say in a sentence that the label-free metrics have plateaued; None while they have not, or while it is unknown.

    They have if each of the last ``patience`` snapshots has at least ``MIN_STABILITY`` of its nearest neighbors in common
    with the one before it, no metric of ``RANKED`` rose by more than ``tolerance`` between any two of these snapshots, and
    none looks collapsed (another option stops those runs). Never with fewer than ``MIN_SNAPSHOTS`` snapshots. Training may
    still improve them afterwards, if the learning rate has far to fall.

    Args:
        log: the lines of ``metrics.jsonl``.
        patience: number of snapshots without an improvement.
        tolerance: the largest relative rise that does not count as an improvement.
    """
    found = snapshot_records(log)
    window = found[-patience - 1 :]
    if len(found) < max(MIN_SNAPSHOTS, patience + 2) or any(_with_remark(record).remark for record in window):
        return None
    names = [name for name in RANKED if all(name in record.figures for record in window)]
    shares = [record.figures.get("stability", 0.0) for record in window[1:]]
    rises = {name: _rise([record.figures[name] for record in window]) for name in names}
    if not names or min(shares) < MIN_STABILITY or max(rises.values()) > tolerance:
        return None
    figures = " and ".join(f"{name} by {100 * rise:.1f} %" for name, rise in rises.items())
    return (
        f"the label-free metrics have plateaued: over the last {patience} snapshots at least {100 * min(shares):.0f} % of the "
        f"nearest neighbors stayed the same, and the metrics rose by no more than {100 * tolerance:g} % ({figures})"
    )


def snapshot_records(log: Sequence[Mapping[str, Any]]) -> list[SnapshotRecord]:
    """Extract the label-free evaluations from the log of a run, in order; several lines of one step are merged."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in log:
        if "label_free" in line or "knn" in line:
            by_step.setdefault(line["step"], {}).update(line)
    return [
        SnapshotRecord(
            step,
            line["epoch"],
            line.get("snapshot") or "",
            {name: value for name, value in line["label_free"].items() if math.isfinite(value)},
            _accuracy(line.get("knn") or {}),
        )
        for step, line in sorted(by_step.items())
        if "label_free" in line and _is_valid(line)
    ]


def _is_valid(line: Mapping[str, Any]) -> bool:
    """Whether a line is as a run writes it: a log may be damaged, and may come from anyone."""
    snapshot, epoch = line.get("snapshot") or "", line.get("epoch")
    tables = [line["label_free"], line.get("knn") or {}]
    figures = [value for table in tables if isinstance(table, dict) for value in table.values()]
    inside = isinstance(snapshot, str) and not snapshot.startswith("/") and ".." not in snapshot.split("/")
    numbers = all(type(each) in (int, float) for each in (epoch, *figures))
    return inside and numbers and all(isinstance(table, dict) for table in tables)


def _accuracy(knn: Mapping[str, float]) -> float | None:
    first = next((name for name in knn if name.endswith("top1")), "")
    return knn.get("k20_t0.07_top1", knn.get(first))


def _with_remark(record: SnapshotRecord) -> SnapshotRecord:
    """The record, with a remark if it looks collapsed."""
    for name, least in COLLAPSED.items():
        value = record.figures.get(name, least)
        if value < least:
            return replace(record, remark=f"{name} {value:.3f}, below {least:g}")
    return record


def _value(record: SnapshotRecord, name: str) -> float:
    value = record.knn if name == "knn" else record.figures[name]
    assert value is not None
    return value


def _scored(compared: Sequence[SnapshotRecord], names: Sequence[str]) -> list[SnapshotRecord]:
    """Score each by the share of the others that are worse, averaged over the metrics; an equal one counts half."""
    scored = []
    for record in compared:
        shares = []
        for name in names:
            own, others = _value(record, name), [_value(other, name) for other in compared if other is not record]
            worse = sum(1.0 if other < own else 0.5 for other in others if other <= own)
            shares.append(worse / len(others) if others else 1.0)
        scored.append(replace(record, score=sum(shares) / len(shares)))
    return scored


def _rise(values: Sequence[float]) -> float:
    """The largest rise from one value to a later one, relative to the largest; 0 if they only fall."""
    size = max(abs(value) for value in values) or 1.0
    return max(max(values[place:]) - value for place, value in enumerate(values)) / size


def _left_out(table: Sequence[SnapshotRecord], sound: Sequence[SnapshotRecord]) -> list[str]:
    collapsed = [record for record in table if record.remark]
    if not collapsed:
        return []
    if len(collapsed) == len(table) == len(sound):
        return [
            f"All {len(table)} snapshots look collapsed (at step {table[-1].step}: {table[-1].remark}): this is the least bad "
            "one, and not to be relied on."
        ]
    listed = "; ".join(f"step {record.step}: {record.remark}" for record in collapsed)
    return [f"{len(collapsed)} of {len(table)} snapshots look collapsed and are left out ({listed})."]


def _reasons(chosen: SnapshotRecord, scored: Sequence[SnapshotRecord], names: Sequence[str]) -> list[str]:
    if len(scored) == 1:
        return [f"Step {chosen.step} (epoch {chosen.epoch:g}) is the only snapshot left, so nothing was compared."]
    places = []
    for name in names:
        own = _value(chosen, name)
        place = 1 + sum(_value(other, name) > own for other in scored)
        places.append(f"{_spelled(name)} {own:.4g}, place {place} of {len(scored)}")
    figures = " and ".join(_spelled(name) for name in names)
    what = f"the best mean rank in {figures}" if len(names) > 1 else f"the best {figures}"
    reasons = [f"Step {chosen.step} (epoch {chosen.epoch:g}) has {what} ({'; '.join(places)})."]
    best = {name: max(scored, key=lambda record: (_value(record, name), record.step)) for name in names}
    apart = [
        f"{_spelled(name)} alone would select step {record.step}"
        for name, record in best.items()
        if record is not chosen
    ]
    if apart:
        reasons.append(f"The metrics disagree: {', '.join(apart)}. Take this as a hint.")
    elif len(names) > 1:
        reasons.append("Each of these metrics alone would select it too.")
    if chosen is scored[-1]:
        reasons.append("It is the last snapshot, so longer training may improve it further.")
    return reasons


def _comparison_with_knn(chosen: SnapshotRecord, sound: Sequence[SnapshotRecord]) -> list[str]:
    probed = [record for record in sound if record.knn is not None]
    if not probed:
        return ["No labels were used: label-free metrics are a guide, not proof."]
    best = max(probed, key=lambda record: (_value(record, "knn"), record.step))
    if chosen.knn is None:
        return [f"There was no kNN probe at this step; kNN accuracy is best at step {best.step}."]
    if chosen.knn >= _value(best, "knn"):
        return [f"kNN accuracy, which was not used, agrees: {chosen.knn:.1f} % here, nowhere higher."]
    return [
        f"kNN accuracy, which was not used, would select step {best.step}: {best.knn:.1f} %, compared with "
        f"{chosen.knn:.1f} % here."
    ]


def _spelled(name: str) -> str:
    return "kNN accuracy" if name == "knn" else name
