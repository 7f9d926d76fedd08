"""Finds the images of a run again, wherever the command is run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.data.sources.object_store import is_remote
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError

ABSOLUTE_PATHS = "data_absolute"
"""The fact in ``run.json`` that says where the images were when the run started; older runs have none."""


def find_images(folder: Path, data: Sequence[str], facts: Mapping[str, Any], images: Sequence[str] = ()) -> ImageSource:
    """Open the images of a run: where they were when it started, or else the paths of its settings, from here.

    Args:
        folder: the run's folder, for the message.
        data: the paths of its settings.
        facts: from its ``run.json``.
        images: where the images are now; if given, they are looked for nowhere else.

    Raises:
        UserError: they are not found; it says where they were looked for.
    """
    if images:
        return open_source(*images)
    reasons: list[str] = []
    for paths in dict.fromkeys([_recorded(facts), _absolute(data)]):
        if not paths:
            continue
        try:
            return open_source(*paths)
        except UserError as error:
            reasons.append(str(error))
    raise not_found(folder, "; ".join(reasons))


def not_found(folder: Path, reason: str) -> UserError:
    """The error for images that are not found, or are not there any more."""
    return UserError(
        f"the images of {folder} were not found ({reason}): say where they are with --images PATH. Nothing was written"
    )


def _recorded(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The absolute paths that a run recorded; none if it is older, or if the record is damaged."""
    paths = facts.get(ABSOLUTE_PATHS)
    return tuple(paths) if isinstance(paths, list) and all(isinstance(each, str) for each in paths) else ()


def _absolute(data: Sequence[str]) -> tuple[str, ...]:
    return tuple(each if is_remote(each) else str(Path(each).expanduser().absolute()) for each in data)
