"""The folder of a run: who holds it, its log, and the plain files in it."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coterie.atomic import remove_unfinished, write_text
from coterie.errors import BadRun

LOG, EVALUATION, FACTS = "metrics.jsonl", "evaluation.json", "run.json"


@dataclass
class FinishedWork:
    """Slow work of callbacks that was finished after one step, and what it wrote to the log.

    Attributes:
        step: the step, from 0; -1: none.
        names: of the finished callbacks, in order.
        lines: that they added to the log.
        ended: why one of them ended the run, if one did.
        ended_by: its name.
    """

    step: int = -1
    names: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None
    ended_by: str | None = None


@dataclass(frozen=True)
class Records:
    """The plain files of a run, apart from its settings.

    Attributes:
        log: lines of ``metrics.jsonl``.
        evaluation: ``evaluation.json``: ``{probe: {metric: value}}``.
        facts: ``run.json``: what :func:`write_facts` wrote.
        remarks: a line for each file that is damaged.
    """

    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    facts: dict[str, Any]
    remarks: tuple[str, ...] = ()


class RunFolder:
    """A run's folder, held by one process at a time; of several that work together, by the first.

    It has ``config.toml``, ``metrics.jsonl`` (one object per line), ``bad_images.txt``, ``model.safetensors``,
    ``checkpoint/``, ``report.html``, ``run.json`` (facts of the start), ``snapshots/``, ``evaluation.json``, ``embeddings/``.
    """

    def __init__(self, path: str | Path, *, held: bool = True) -> None:
        """Open the folder, and make it if it is not there; without ``held`` it is only read, as another process holds it.

        Raises:
            BadRun: another process holds it, or it cannot be written to.
        """
        self.path = Path(path)
        self._lock: int | None = None
        if not held:
            return
        if self.path.exists() and not self.path.is_dir():
            raise BadRun(f"{self.path} is a file: --out names a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise BadRun(f"cannot write to {self.path}: {error.strerror}; choose another --out") from error
        try:
            # a record lock: unlike flock's, it is not inherited by loader workers that outlive a killed run
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise BadRun(f"{self.path} is in use by another process: wait for it, or choose another --out") from error
        for folder in (self.path, self.path / "snapshots"):
            remove_unfinished(folder)

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.close(self._lock)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.toml"

    @property
    def model(self) -> Path:
        """The backbone's weights."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """The log of the run."""
        return self.path / LOG

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            BadRun: it cannot be written.
        """
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise BadRun(f"cannot write {self.log}: {error.strerror}; what was saved is whole") from error

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log, without damaged ones."""
        return read_log(self.path)

    def truncate_log(self, steps: int, finished: Sequence[dict[str, Any]] | None = None) -> None:
        """Drop what was logged after ``steps`` steps: it will be done, and logged, again.

        Args:
            steps: that are done and saved.
            finished: the lines of slow work that was finished after the last of these steps, in place of whatever lines of
                slow work are there; None: no slow work was due then.
        """
        if not self.log.exists():
            return
        kept = [record for record in self.records() if record["step"] < steps]
        if finished is not None:
            kept = [record for record in kept if record["step"] < steps - 1 or "loss" in record] + list(finished)
        write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))

    def finished_work(self) -> FinishedWork:
        """The slow work that was finished last; none where the file is missing or damaged."""
        try:
            return FinishedWork(**json.loads((self.checkpoints / "callbacks.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return FinishedWork()

    def write_finished_work(self, done: FinishedWork) -> None:
        """Remember slow work as finished."""
        write_text(self.checkpoints / "callbacks.json", json.dumps(asdict(done)) + "\n")

    def write_bad_images(self, bad: Iterable[tuple[str, str]]) -> None:
        """List the images that could not be decoded: name, tab, reason; sorted, so that the list is always the same."""
        lines = [f"{name}\t{reason}\n" for name, reason in sorted(bad)]
        if lines:
            write_text(self.path / "bad_images.txt", "".join(lines))


def write_facts(
    folder: Path, *, images: int, automatic: Sequence[tuple[str, str, str]], environment: Mapping[str, str]
) -> None:
    """Keep in ``run.json`` what only the start of a run knows, for its page and for comparisons.

    Args:
        folder: of the run.
        images: how many its source has.
        automatic: (setting, value, reason) of the automatic values.
        environment: hardware and versions.
    """
    facts = {"images": images, "automatic": list(automatic), "environment": dict(environment)}
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def read_records(folder: Path) -> Records:
    """The log, the evaluation and the facts of a run; each is empty where there is none."""
    log, remarks = _read_log(folder)
    evaluation, facts = (_read_object(folder / name, remarks) for name in (EVALUATION, FACTS))
    return Records(log, evaluation, facts, tuple(remarks))


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, without damaged ones."""
    return _read_log(Path(folder))[0]


def _read_log(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines and remarks; a last line that was cut short is what a running run looks like, any other is remarked on."""
    path, records, damaged = folder / LOG, list[dict[str, Any]](), list[int]()
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
        elif number < len(lines) or record is not None:
            damaged.append(number)
    if not damaged:
        return records, []
    which = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines, the first {damaged[0]}, are"
    return records, [f"{which} damaged in {path} and left out: {len(records)} of {len(lines)} are read"]


def _read_object(path: Path, remarks: list[str]) -> dict[str, Any]:
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
