"""Checkpoint files: everything needed to resume after any interruption."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from coterie.atomic import writing
from coterie.errors import BadRun
from coterie.models.safe_load import read_torch_file

KEPT = 2
"""How many checkpoints are kept."""
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


def save(folder: Path, state: dict[str, Any], step: int) -> None:
    """Write ``state`` as the checkpoint after ``step`` steps, and delete all but the last two checkpoints.

    The name of the file holds the start of its SHA-256, which tells an intact file from a damaged one. Earlier checkpoints
    stay until this one is on the disk.

    Raises:
        UserError: the file could not be written; earlier checkpoints are intact.
    """
    with writing(folder / f"step-{step:09d}.pt", lambda part: f"step-{step:09d}-{_digest(part)}.pt") as part:
        torch.save(state, part)
    for _, old in list_checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of each checkpoint, newest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def load(folder: Path, *, set_aside: bool = False) -> tuple[int, dict[str, Any] | None, list[str]]:
    """Load the newest intact checkpoint to the CPU.

    Args:
        folder: folder of the checkpoints.
        set_aside: rename damaged files, so that they no longer count as checkpoints.

    Returns:
        The steps done, the state (None if there is no checkpoint), and a line for each damaged file that was skipped.

    Raises:
        BadRun: there are checkpoints, but none is intact.
    """
    skipped: list[str] = []
    damaged: list[Path] = []
    for step, path in list_checkpoints(folder):
        try:
            state = _read(path)
        except FileNotFoundError:  # a running run has just replaced it
            continue
        except BadRun as error:
            skipped.append(f"{path.name} {error} and is skipped")
            damaged.append(path)
            continue
        for other in damaged if set_aside else ():
            other.rename(other.with_suffix(".damaged"))
        return step, state, skipped
    if skipped:
        raise BadRun(f"no checkpoint in {folder} can be used ({skipped[0]}): start over with another --out")
    return 0, None, skipped


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Context for restoring a state: an error inside becomes one line.

    Raises:
        BadRun: the state does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise BadRun(
            f"the checkpoint in {folder} does not fit: it was changed, or written by another version of Coterie; resume with "
            "that version, or start over with another --out"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed, and it takes no more memory than the file has bytes."""
    expected = _NAME.fullmatch(path.name)
    try:
        if not expected or _digest(path) != expected[2]:
            raise BadRun("is damaged (its checksum differs)")
        state = read_torch_file(path)
    except (BadRun, FileNotFoundError):
        raise
    except OSError as error:
        raise BadRun(f"cannot be read ({error.strerror})") from error
    except Exception as error:  # the checksum is right, so the file was crafted
        raise BadRun("was not written by Coterie (it holds more than tensors and plain values)") from error
    if not isinstance(state, dict):
        raise BadRun("was not written by Coterie")
    return state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
