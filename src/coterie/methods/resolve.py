"""The options of a command or a call, completed by the product's presets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.from_options import Resolved, resolve
from coterie.config.options import RunOptions, check_options
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, image_remarks, label_notes
from coterie.logger import Logger
from coterie.methods.presets import METHODS, plan_method

Paths = str | Path | Sequence[str | Path]


def resolve_run(
    method: str | None,
    data: Paths,
    options: RunOptions,
    settings: Mapping[str, Any] | None = None,
    logger: Logger | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Resolved:
    """Open the images and complete the config of a run: ``config.from_options.resolve`` with the product's presets."""
    check_options(options, RunOptions)
    return resolve(
        method,
        path_strings(data),
        options,
        methods=METHODS,
        plan_method=plan_method,
        settings=settings,
        saved=saved,
        logger=logger,
    )


def open_images(data: Paths, columns: Columns, logger: Logger, tell_labels: bool = False) -> ImageSource:
    """Open images for a command that has no settings of a run, and say how they were found where that was a choice.

    Args:
        data: one path or several.
        columns: where images and labels are.
        logger: receives these remarks.
        tell_labels: say the same of their labels; what evaluates them does so itself.
    """
    source = open_source(*path_strings(data), columns=columns)
    for line in (*image_remarks(source), *(label_notes(source).remarks if tell_labels else ())):
        logger.warning(line)
    return source


def path_strings(paths: Paths) -> tuple[str, ...]:
    """One path or several as a tuple of strings."""
    if isinstance(paths, (str, Path)):
        return (str(paths),)
    return tuple(str(path) for path in paths)
