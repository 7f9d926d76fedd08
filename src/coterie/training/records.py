"""What a run's folder says in plain files, read so that a damaged part is told and costs nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.atomic import write_text

LOG, EVALUATION, FACTS = "metrics.jsonl", "evaluation.json", "run.json"


@dataclass(frozen=True)
class Records:
    """The files of a run, apart from its settings and weights.

    Attributes:
        log: lines of ``metrics.jsonl``.
        evaluation: ``evaluation.json``: ``{probe: {metric: value}}``.
        facts: ``run.json``: what :func:`write_facts` kept.
        remarks: a line for each file that is damaged.
    """

    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    facts: dict[str, Any]
    remarks: tuple[str, ...] = ()


def write_facts(
    folder: Path, *, images: int, automatic: Sequence[tuple[str, str, str]], environment: Mapping[str, str]
) -> None:
    """Keep in ``run.json`` what only the start of a run knows, for its page and for comparisons.

    Args:
        folder: of the run.
        images: how many its source has.
        automatic: (setting, value, reason) of the settings that were found.
        environment: where it runs, and with what.
    """
    facts = {"images": images, "automatic": list(automatic), "environment": dict(environment)}
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def read_records(folder: Path) -> Records:
    """The log, the evaluation and the facts of a run; each is empty where there is none."""
    remarks: list[str] = []
    log = _log(folder, remarks)
    return Records(log, _object(folder / EVALUATION, remarks), _object(folder / FACTS, remarks), tuple(remarks))


def _log(folder: Path, remarks: list[str]) -> list[dict[str, Any]]:
    """Its lines; a last line that was cut short is what a run that goes on looks like, any other is told."""
    path, records, damaged = folder / LOG, list[dict[str, Any]](), list[int]()
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        elif number < len(lines) or record is not None:
            damaged.append(number)
    if damaged:
        which = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines, the first {damaged[0]}, are"
        remarks.append(f"{which} damaged in {path} and left out: {len(records)} of {len(lines)} are read")
    return records


def _object(path: Path, remarks: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    remarks.append(f"{path} is damaged and left out: remove it, and evaluate again if it was {EVALUATION}")
    return {}
