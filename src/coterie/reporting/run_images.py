"""Finds the images of a run again, wherever the command is run."""

from collections.abc import Sequence
from pathlib import Path

from coterie.data.sources.open import absolute, open_source
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError


def find_images(folder: Path, data: Sequence[str], images: ImageSource | None = None) -> ImageSource:
    """Open the images of a run.

    Args:
        folder: the run's folder, for the message.
        data: the paths of its settings: absolute, or, of a run of an earlier version, from here.
        images: the images, if they were given; then they are looked for nowhere.

    Raises:
        UserError: they are not found; it says where they were looked for.
    """
    if images is not None:
        return images
    try:
        return open_source(*map(absolute, data))
    except UserError as error:
        raise not_found(folder, str(error)) from error


def not_found(folder: Path, reason: str) -> UserError:
    """The error for images that are not found, or are not there any more."""
    return UserError(
        f"the images of {folder} were not found ({reason}): say where they are with --images PATH. Nothing was written"
    )
