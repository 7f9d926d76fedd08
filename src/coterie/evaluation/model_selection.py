"""Which checkpoint to take, and whether to go on, from what the log of a run says at each look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from coterie.errors import BadRun

RANKED = ("effective_rank", "perplexity_share")
"""The figures whose mean rank decides, more being better; those that a method has not are left out of it."""
COLLAPSED = {"spread": 0.1, "perplexity": 1.5, "perplexity_share": 0.02}
"""Below these the embeddings of different images are nearly one point (as in the log of a run), or nearly all are in one or
in a few of the groups."""
STABLE = 0.6
"""At this share of common neighbors from one look to the next, little moves any more."""
FEWEST_LOOKS = 5
"""Before so many looks nothing is called stale."""


@dataclass(frozen=True)
class Look:
    """What was seen of a run at a moment.

    Attributes:
        step: how many steps had been taken, as the log counts.
        epoch: likewise.
        snapshot: the file of the weights, relative to the run's folder; "" if none was kept.
        figures: those without labels, by name.
        knn: accuracy in percent, if labels were asked.
        score: how the look ranks among those that were compared, from 0 (worst) to 1; None if it was not compared.
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
class Selection:
    """The checkpoint to take.

    Attributes:
        snapshot: the file of its weights, relative to the run's folder.
        step: of the look that it is from.
        epoch: likewise.
        table: every look that could have been chosen, in order.
        reasons: plain sentences: why this one, and how sure.
    """

    snapshot: str
    step: int
    epoch: float
    table: tuple[Look, ...]
    reasons: tuple[str, ...]


def select(records: Sequence[Mapping[str, Any]], by: Literal["label_free", "knn"] = "label_free") -> Selection:
    """Choose a checkpoint from the log of a run.

    Looks that seem collapsed (a figure of ``COLLAPSED`` below its limit) are left out; of the others the one with the
    best mean rank in the figures of ``RANKED`` is taken, of equals the latest. kNN accuracy, if the log has it, is only
    compared with; it decides with ``by="knn"``.

    Args:
        records: the lines of ``metrics.jsonl``.
        by: what decides.

    Raises:
        BadRun: no look has both figures and a snapshot, or none has what is to decide.
    """
    found = [look for look in looks(records) if look.snapshot]
    if not found:
        raise BadRun(
            "there is no checkpoint to choose: the log of this run has no label-free figures with a snapshot beside them; "
            "they are taken while a run trains, so train again, or take the last weights"
        )
    marked = [_marked(look) for look in found]
    sound = [look for look in marked if not look.remark] or marked
    names = ("knn",) if by == "knn" else tuple(name for name in RANKED if all(name in look.figures for look in sound))
    compared = [look for look in sound if look.knn is not None] if by == "knn" else sound
    if not compared or not names:
        wanted = "kNN accuracy (give labeled images with --probe)" if by == "knn" else f"{' or '.join(RANKED)} in each"
        raise BadRun(f"there is nothing to choose by: the looks of this run have no {wanted}")
    scored = _scored(compared, names)
    chosen = max(scored, key=lambda look: (look.score, look.step))
    table = tuple({look.step: look for look in (*marked, *scored)}[look.step] for look in found)
    reasons = [*_left_out(table, sound), *_why(chosen, scored, names)]
    if by != "knn":
        reasons += _labels_say(chosen, sound)
    return Selection(chosen.snapshot, chosen.step, chosen.epoch, table, tuple(reasons))


def stale(records: Sequence[Mapping[str, Any]], patience: int = 3, tolerance: float = 0.02) -> str | None:
    """A sentence that says that the run has ceased to move; None while it moves, or while that cannot be said.

    Said only if each of the last ``patience`` looks has at least ``STABLE`` of its nearest neighbors in common with the look
    before it, no figure of ``RANKED`` has risen by more than ``tolerance`` (a share of it) between any two of these looks, and
    none seems collapsed (another option stops those). Never before ``FEWEST_LOOKS`` looks. A learning rate that has
    still far to fall may bring more all the same.

    Args:
        records: the lines of ``metrics.jsonl``.
        patience: how many looks must be alike.
        tolerance: the largest rise that is none.
    """
    found = looks(records)
    window = found[-patience - 1 :]
    if len(found) < max(FEWEST_LOOKS, patience + 2) or any(_marked(look).remark for look in window):
        return None
    names = [name for name in RANKED if all(name in look.figures for look in window)]
    shares = [look.figures.get("stability", 0.0) for look in window[1:]]
    rises = {name: _rise([look.figures[name] for look in window]) for name in names}
    if not names or min(shares) < STABLE or max(rises.values()) > tolerance:
        return None
    figures = " and ".join(f"{name} by {100 * rise:.1f} %" for name, rise in rises.items())
    return (
        f"the run has ceased to move: over the last {patience} looks at least {100 * min(shares):.0f} % of the nearest "
        f"neighbors stayed from each to the next, and the figures rose by no more than {100 * tolerance:g} % ({figures})"
    )


def looks(records: Sequence[Mapping[str, Any]]) -> list[Look]:
    """The looks in the log of a run, in order; what several lines say of one step is put together."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in records:
        if "label_free" in record or "knn" in record:
            by_step.setdefault(record["step"], {}).update(record)
    return [
        Look(
            step,
            record["epoch"],
            record.get("snapshot") or "",
            {name: value for name, value in record["label_free"].items() if math.isfinite(value)},
            _accuracy(record.get("knn") or {}),
        )
        for step, record in sorted(by_step.items())
        if "label_free" in record and _is_sound(record)
    ]


def _is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a line is as it was written; a log may be damaged, and may come from anybody."""
    snapshot, epoch = record.get("snapshot") or "", record.get("epoch")
    tables = [record["label_free"], record.get("knn") or {}]
    figures = [value for table in tables if isinstance(table, dict) for value in table.values()]
    inside = isinstance(snapshot, str) and not snapshot.startswith("/") and ".." not in snapshot.split("/")
    numbers = all(type(each) in (int, float) for each in (epoch, *figures))
    return inside and numbers and all(isinstance(table, dict) for table in tables)


def _accuracy(knn: Mapping[str, float]) -> float | None:
    first = next((name for name in knn if name.endswith("top1")), "")
    return knn.get("k20_t0.07_top1", knn.get(first))


def _marked(look: Look) -> Look:
    """The look, with a remark if it seems collapsed."""
    for name, least in COLLAPSED.items():
        value = look.figures.get(name, least)
        if value < least:
            return replace(look, remark=f"{name} {value:.3f}, below {least:g}")
    return look


def _value(look: Look, name: str) -> float:
    value = look.knn if name == "knn" else look.figures[name]
    assert value is not None
    return value


def _scored(compared: Sequence[Look], names: Sequence[str]) -> list[Look]:
    """With the mean, over the figures, of the share of the other looks that are worse; an equal one is half worse."""
    scored = []
    for look in compared:
        shares = []
        for name in names:
            own, others = _value(look, name), [_value(other, name) for other in compared if other is not look]
            worse = sum(1.0 if other < own else 0.5 for other in others if other <= own)
            shares.append(worse / len(others) if others else 1.0)
        scored.append(replace(look, score=sum(shares) / len(shares)))
    return scored


def _rise(values: Sequence[float]) -> float:
    """The largest rise from one value to a later one, as a share of the largest; 0 if they only fall."""
    size = max(abs(value) for value in values) or 1.0
    return max(max(values[place:]) - value for place, value in enumerate(values)) / size


def _left_out(table: Sequence[Look], sound: Sequence[Look]) -> list[str]:
    collapsed = [look for look in table if look.remark]
    if not collapsed:
        return []
    if len(collapsed) == len(table) == len(sound):
        return [
            f"Every one of the {len(table)} looks seems collapsed (at step {table[-1].step}: {table[-1].remark}): this is the "
            "least bad, and nothing to rely on."
        ]
    listed = "; ".join(f"step {look.step}: {look.remark}" for look in collapsed)
    return [f"{len(collapsed)} of {len(table)} looks seem collapsed and are left out ({listed})."]


def _why(chosen: Look, scored: Sequence[Look], names: Sequence[str]) -> list[str]:
    if len(scored) == 1:
        return [f"Step {chosen.step} (epoch {chosen.epoch:g}) is the only look that is left, so nothing was compared."]
    places = []
    for name in names:
        own = _value(chosen, name)
        place = 1 + sum(_value(other, name) > own for other in scored)
        places.append(f"{_said(name)} {own:.4g}, place {place} of {len(scored)}")
    figures = " and ".join(_said(name) for name in names)
    what = f"the best mean rank in {figures}" if len(names) > 1 else f"the best {figures}"
    reasons = [f"Step {chosen.step} (epoch {chosen.epoch:g}) has {what} ({'; '.join(places)})."]
    best = {name: max(scored, key=lambda look: (_value(look, name), look.step)) for name in names}
    apart = [f"{_said(name)} alone would take step {look.step}" for name, look in best.items() if look is not chosen]
    if apart:
        reasons.append(f"The figures do not agree: {', '.join(apart)}. Take it as a hint.")
    elif len(names) > 1:
        reasons.append("Each of these figures alone would take it too.")
    if chosen is scored[-1]:
        reasons.append("It is the last look, so longer training may bring more.")
    return reasons


def _labels_say(chosen: Look, sound: Sequence[Look]) -> list[str]:
    asked = [look for look in sound if look.knn is not None]
    if not asked:
        return ["No labels were looked at; figures without labels are a guide and no proof."]
    best = max(asked, key=lambda look: (_value(look, "knn"), look.step))
    if chosen.knn is None:
        return [f"kNN accuracy was not asked at this step; where it was, it is best at step {best.step}."]
    if chosen.knn >= _value(best, "knn"):
        return [f"kNN accuracy, which was not used, agrees: {chosen.knn:.1f} % here, nowhere more."]
    return [
        f"kNN accuracy, which was not used, would take step {best.step}: {best.knn:.1f} %, against {chosen.knn:.1f} % here."
    ]


def _said(name: str) -> str:
    return "kNN accuracy" if name == "knn" else name
