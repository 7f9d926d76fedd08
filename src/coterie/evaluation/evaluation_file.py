"""``evaluation.json`` of a run: every evaluation with what was asked, and the latest figures of each probe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.evaluation.results import LEADING, Figures, ProbeResults, flat_figures
from coterie.logger import Logger
from coterie.training.run_folder import EVALUATION

_NAMES = sorted([*(each.probe for each in LEADING), "low_shot"], key=len, reverse=True)  # linear_images before linear


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a model.

    Attributes:
        asked: what was asked: train, test, probes, beside, labels, seed, preprocessing, precision, and the ``set`` of a
            transfer; empty where an earlier version did not keep it.
        date: when, as ISO 8601; empty where it was not kept.
        figures: ``{probe: {metric: value}}``.
        baselines: the same of raw pixels, of the untrained network and of other models, by name.
    """

    asked: Mapping[str, Any]
    date: str
    figures: Figures
    baselines: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def set(self) -> str | None:
        """The name of the set, if it is one of a transfer."""
        name = self.asked.get("set")
        return name if isinstance(name, str) else None


def evaluations(content: Mapping[str, Any]) -> tuple[Evaluation, ...]:
    """The evaluations of a file, the latest last; also of files of earlier versions, which kept one figure of each.

    Args:
        content: of ``evaluation.json``; what is not of this kind is left out.
    """
    entries = content.get("entries")
    if not isinstance(entries, list):
        return _of_earlier_versions(content)
    found = []
    for entry in entries:
        each = entry if isinstance(entry, Mapping) else {}
        asked, baselines = (
            value if isinstance(value, Mapping) else {} for value in map(each.get, ("asked", "baselines"))
        )
        figures = {str(name): _figures(value) for name, value in baselines.items()}
        found.append(Evaluation(asked, str(each.get("date", "")), _figures(each.get("figures")), figures))
    return tuple(found)


def note_evaluation(folder: Path, asked: Mapping[str, Any], found: ProbeResults, logger: Logger) -> None:
    """Add an evaluation to ``evaluation.json`` of a run; it replaces an earlier one of which the same was asked.

    Args:
        folder: of the run.
        asked: what was asked, as plain values.
        found: the figures.
        logger: is warned if an earlier file is damaged.

    Raises:
        UserError: the file cannot be written.
    """
    path = folder / EVALUATION
    try:
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        logger.warning(f"{path} could not be read and is replaced")
        content = {}
    earlier = evaluations(content)
    asked = json.loads(json.dumps(asked))  # as it is read from the file: tuples become lists
    new = Evaluation(asked, datetime.now(UTC).isoformat(timespec="seconds"), dict(found), found.baselines)
    entries = [*(each for each in earlier if each.asked != asked or not asked), new]
    write_text(path, json.dumps(_latest(entries) | {"entries": list(map(asdict, entries))}, indent=2) + "\n")


def _latest(entries: Sequence[Evaluation]) -> dict[str, Any]:
    """The latest figures of each probe, and under ``transfer`` those of each set: the whole file of earlier versions."""
    latest: dict[str, Any] = {}
    for each in entries:
        if each.set is None:
            latest |= each.figures
        else:
            sets = latest.setdefault("transfer", {})
            sets[each.set] = sets.get(each.set, {}) | flat_figures(each.figures)
    return latest


def _of_earlier_versions(content: Mapping[str, Any]) -> tuple[Evaluation, ...]:
    probes = _figures({name: value for name, value in content.items() if name != "transfer"})
    found = [Evaluation({}, "", probes)] if probes else []
    for name, flat in _figures(content.get("transfer")).items():
        figures: Figures = {}
        for key, value in flat.items():
            probe = next((each for each in _NAMES if key.startswith(f"{each}_")), key.partition("_")[0])
            figures.setdefault(probe, {})[key.removeprefix(f"{probe}_")] = value
        found.append(Evaluation({"set": name}, "", figures))
    return tuple(found)


def _figures(content: Any) -> Figures:
    known = content if isinstance(content, Mapping) else {}
    return {
        str(name): {str(key): value for key, value in inner.items() if isinstance(value, int | float)}
        for name, inner in known.items()
        if isinstance(inner, Mapping)
    }
