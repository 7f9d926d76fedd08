"""The folder of a run: its lock, its log, and the other plain files in it."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coterie.atomic import make_folders, remove_empty, remove_unfinished, write_text
from coterie.data.sources.file_names import one_line
from coterie.errors import BadRun
from coterie.paths import expand

_held: set[tuple[int, int] | None] = set()  # the locks of this process, which a record lock would give it twice

LOG, EVALUATION, FACTS = "metrics.jsonl", "evaluation.json", "run.json"
CONFIG, IMAGES, REPORT, LOCK = "config.toml", "images.parquet", "report.html", ".lock"
WRITTEN_AT_START = (CONFIG, FACTS, IMAGES)


@dataclass
class FinishedWork:
    """Slow work of callbacks that is finished after one step, and what it wrote to the log.

    Attributes:
        step: the step, from 0; -1: none.
        names: names of the finished callbacks, in order.
        lines: lines that they added to the log.
        ended: why one of them ended the run; None if none did.
        ended_by: the name of that callback.
    """

    step: int = -1
    names: list[str] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None
    ended_by: str | None = None


@dataclass(frozen=True)
class Records:
    """The contents of a run's plain files, apart from its settings.

    Attributes:
        log: lines of ``metrics.jsonl``.
        evaluation: ``evaluation.json``: ``{probe: {metric: value}}``.
        facts: ``run.json``, from :func:`write_facts`.
        remarks: a line for each damaged file.
    """

    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    facts: dict[str, Any]
    remarks: tuple[str, ...] = ()


class RunFolder:
    """A run's folder, locked by one process at a time: in distributed runs, the first.

    It holds ``config.toml``, ``metrics.jsonl`` (one object per line), ``bad_images.txt``, ``model.safetensors``,
    ``checkpoint/``, ``report.html``, ``run.json`` (facts from the start), ``images.parquet`` (the files of its images),
    ``snapshots/``, ``evaluation.json``, ``embeddings/``.
    """

    def __init__(self, path: str | Path, *, held: bool = True) -> None:
        """Open and lock the folder; create it if it does not exist.

        Args:
            path: the folder.
            held: false: neither create nor lock it, because another process of this run does.

        Raises:
            BadRun: another process has locked it, or it cannot be written to.
        """
        self.path = expand(path)
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        self._made: list[Path] = []
        self._empty = False
        if not held:
            return
        if _inode(self.path / LOCK) in _held:  # before opening it: closing any descriptor would release the lock
            raise BadRun(f"{self.path} is in use by this process: wait for it, or choose another --out")
        if self.path.exists() and not self.path.is_dir():
            raise BadRun(f"{self.path} is a file: --out names a folder")
        try:
            self._made = make_folders(self.path)
            self._empty = not any(self.path.iterdir())
            self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            remove_empty(self._made)
            raise BadRun(f"cannot write to {self.path}: {error.strerror}; choose another --out") from error
        try:
            # a record lock is not inherited, unlike flock's, by loader workers that outlive a killed run
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock), (self.path / LOCK).stat()):
                raise FileNotFoundError("a process that was refused has just removed it")
        except OSError as error:
            os.close(self._lock)
            raise BadRun(f"{self.path} is in use by another process: wait for it, or choose another --out") from error
        self._inode = _inode(self.path / LOCK)
        _held.add(self._inode)
        for folder in (self.path, self.path / "snapshots"):
            remove_unfinished(folder)

    def close(self) -> None:
        """Unlock the folder. If nothing was trained in it, a new folder is removed again with its new parents."""
        if self._lock is None:
            return
        with suppress(OSError):  # the folder or its disk may be gone: the error that ended the run is the one to see
            if self._empty and {each.name for each in self.path.iterdir()} <= {LOCK, *WRITTEN_AT_START}:
                for name in (*WRITTEN_AT_START, LOCK):
                    (self.path / name).unlink(missing_ok=True)
                remove_empty(self._made)
        os.close(self._lock)
        _held.discard(self._inode)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoint"

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / CONFIG

    @property
    def model(self) -> Path:
        """The backbone's weights."""
        return self.path / "model.safetensors"

    @property
    def images(self) -> Path:
        """The list of its images' files, by which a resumed run recognizes them."""
        return self.path / IMAGES

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / REPORT

    @property
    def log(self) -> Path:
        """The log of the run."""
        return self.path / LOG

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            BadRun: the log cannot be written.
        """
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise BadRun(f"cannot write {self.log}: {error.strerror}; saved files are intact") from error

    def records(self) -> list[dict[str, Any]]:
        """The intact lines of the log."""
        return read_log(self.path)

    def truncate_log(
        self,
        steps: int,
        finished: Sequence[dict[str, Any]] | None = None,
        lengths: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Drop lines that were logged after ``steps`` steps: those steps will be trained and logged again.

        Args:
            steps: steps that are done and saved.
            finished: lines from slow work that is finished after the last of these steps; they replace all lines from slow
                work after it. None: no slow work was due then.
            lengths: extensions that are saved; lines about others are dropped.
        """
        if not self.log.exists():
            return
        kept = [record for record in self.records() if record["step"] < steps]
        kept = [record for record in kept if "extended" not in record or tuple(record["extended"]) in lengths]
        if finished is not None:
            kept = [
                record
                for record in kept
                if record["step"] < steps - 1 or {"loss", "extended", "laid_out"} & record.keys()
            ]
            kept += finished
        write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))

    def finished_work(self) -> FinishedWork:
        """The slow work that was finished last; none if the file is missing or damaged."""
        try:
            return FinishedWork(**json.loads((self.checkpoints / "callbacks.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return FinishedWork()

    def write_finished_work(self, done: FinishedWork) -> None:
        """Record slow work as finished."""
        write_text(self.checkpoints / "callbacks.json", json.dumps(asdict(done)) + "\n")

    def write_bad_images(self, bad: Iterable[tuple[str, str]]) -> None:
        """List the images that could not be decoded, as name, tab and reason, in sorted order; a line break is escaped."""
        lines = [f"{one_line(name)}\t{one_line(reason)}\n" for name, reason in sorted(bad)]
        if lines:
            write_text(self.path / "bad_images.txt", "".join(lines))


def write_facts(
    folder: Path,
    *,
    images: int,
    automatic: Sequence[tuple[str, str, str]],
    environment: Mapping[str, str],
    start: str | None = None,
) -> None:
    """Write facts from the start of a run to ``run.json``, for its report and for comparisons.

    Args:
        folder: the run's folder.
        images: number of images in its source.
        automatic: (setting, value, reason) of each automatic value.
        environment: hardware and versions.
        start: what the run took over from the weights that it starts from; None: nothing.
    """
    facts = {"images": images, "automatic": list(automatic), "environment": dict(environment)}
    facts |= {} if start is None else {"start": start}
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def add_fact(folder: Path, name: str, value: Any) -> None:
    """Add a fact to ``run.json``, or change it; a damaged file is begun anew."""
    facts = _read_object(folder / FACTS, []) | {name: value}
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def read_records(folder: Path) -> Records:
    """Read log, evaluation and facts of a run; each is empty if its file does not exist."""
    log, remarks = _read_log(folder)
    evaluation, facts = (_read_object(folder / name, remarks) for name in (EVALUATION, FACTS))
    return Records(log, evaluation, facts, tuple(remarks))


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Read the intact lines of a run's ``metrics.jsonl``."""
    return _read_log(Path(folder))[0]


def _read_log(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Read lines and remarks; a truncated last line is normal while a run writes, any other damage gets a remark."""
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
    return records, [f"{which} damaged in {path} and ignored: {len(records)} of {len(lines)} are intact"]


def _read_object(path: Path, remarks: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return content
    remedy = "delete it and evaluate again" if path.name == EVALUATION else "delete it"
    remarks.append(f"{path} is damaged and ignored: {remedy}")
    return {}


def _inode(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
