"""Finds the images of a run again, wherever the command is run."""

from collections.abc import Sequence
from pathlib import Path

from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.open import absolute, open_source
from coterie.data.sources.own_data import GivenData
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError


def find_images(
    folder: Path, data: Sequence[str], images: GivenData | None = None, columns: Columns = ANY_COLUMNS
) -> ImageSource:
    """Open the images of a run.

    Args:
        folder: the run's folder, for the message.
        data: the paths of its settings: absolute, or, of a run of an earlier version, from here.
        images: the images, or where they are now; then they are looked for nowhere else.
        columns: where images and labels are in them.

    Raises:
        UserError: they are not found; it says where they were looked for.
    """
    if images is not None and images.specs:
        return images.open(columns)
    try:
        return open_source(*map(absolute, data), columns=columns)
    except UserError as error:
        raise not_found(folder, str(error)) from error


def not_found(folder: Path, reason: str) -> UserError:
    """The error for images that are not found, or are not there any more."""
    return UserError(
        f"the images of {folder} were not found ({reason}): say where they are with --images PATH. Nothing was written"
    )
