"""The folder of a run: who uses it, and its log."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coterie.atomic import remove_unfinished, write_text
from coterie.errors import BadRun


class RunFolder:
    """A run's folder, held by one process at a time; of several that work together, by the first.

    ``config.toml``, ``metrics.jsonl`` (one object a line), ``bad_images.txt``, ``model.safetensors``, ``checkpoint/``,
    ``report.html``, ``run.json`` (facts of the start), ``snapshots/``, ``evaluation.json``, ``embeddings/``.
    """

    def __init__(self, path: str | Path, *, held: bool = True) -> None:
        """Take the folder, making it if need be; :class:`BadRun` if another process has it.

        With ``held`` off it is only read: another process of the same run has it.
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
            # a record lock: unlike flock's, it is not kept by loader workers that outlive a killed run
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise BadRun(f"{self.path} is in use by another process: wait for it, or choose another --out") from error
        for folder in (self.path, self.path / "snapshots"):
            remove_unfinished(folder)

    def close(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            os.close(self._lock)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
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
    def log(self) -> Path:
        """The log of the run."""
        return self.path / "metrics.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the log."""
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise BadRun(f"cannot write {self.log}: {error.strerror}; what was saved is whole") from error

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log; those that are cut short or damaged are left out."""
        return read_log(self.path)

    def truncate_log(self, step: int) -> None:
        """Drop from the log what came after ``step`` steps: it will be done, and logged, again."""
        if self.log.exists():
            kept = [record for record in self.records() if record["step"] < step]
            write_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))

    def write_bad_images(self, bad: Iterable[tuple[str, str]]) -> None:
        """List the images that could not be decoded: name, tab, reason; sorted, so that the list is always the same."""
        lines = [f"{name}\t{reason}\n" for name, reason in sorted(bad)]
        if lines:
            write_text(self.path / "bad_images.txt", "".join(lines))


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; those that are cut short or damaged are left out."""
    path = Path(folder) / "metrics.jsonl"
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
    return records
