"""What is needed to go on after any interruption."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from coterie.atomic import writing
from coterie.errors import BadRun

KEPT = 2
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


def save(folder: Path, state: dict[str, Any], step: int) -> None:
    """Write ``state`` as the checkpoint after ``step`` steps and drop all but the last two.

    The file's name holds the start of its SHA-256, so that a whole file can be told from a damaged one; the checkpoint
    before it stays until this one is on the disk.

    Raises:
        UserError: it could not be written; the earlier checkpoints are whole.
    """
    with writing(folder / f"step-{step:09d}.pt", lambda part: f"step-{step:09d}-{_digest(part)}.pt") as part:
        torch.save(state, part)
    for _, old in found(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def found(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of each checkpoint, the newest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load(folder: Path, *, set_aside: bool = False) -> tuple[int, dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint, on the CPU.

    Args:
        folder: of the checkpoints.
        set_aside: rename damaged files, so that they no longer count among those that are kept.

    Raises:
        BadRun: there are checkpoints, and not one is whole.

    Returns:
        The steps done, the state (None if there is no checkpoint), and a line for each damaged file that was passed over.
    """
    passed_over: list[str] = []
    damaged: list[Path] = []
    for step, path in found(folder):
        expected = _NAME.fullmatch(path.name)
        try:
            if expected and _digest(path) == expected[2]:
                state = torch.load(path, map_location="cpu", weights_only=True)
                for other in damaged if set_aside else ():
                    other.rename(other.with_suffix(".damaged"))
                return step, state, passed_over
        except FileNotFoundError:  # a run that goes on has just replaced it
            continue
        passed_over.append(f"{path.name} is damaged (its checksum differs) and is passed over")
        damaged.append(path)
    if passed_over:
        raise BadRun(f"no checkpoint in {folder} is whole ({passed_over[0]}): begin again with another --out")
    return 0, None, passed_over


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
