"""The options of a command or a call, completed by the product's presets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.from_options import Resolved, resolve
from coterie.config.options import RunOptions, check_options, label_columns
from coterie.data.sources.columns import Columns
from coterie.data.sources.own_data import Data, given_data
from coterie.data.sources.source import ImageSource, image_remarks, label_notes
from coterie.logger import Logger
from coterie.methods.presets import METHODS, plan_method

Paths = str | Path | Sequence[str | Path]


def path_strings(paths: Paths) -> tuple[str, ...]:
    """One path or several as a tuple of strings."""
    return (str(paths),) if isinstance(paths, str | Path) else tuple(map(str, paths))


def resolve_run(
    method: str | None,
    data: Data,
    options: RunOptions,
    settings: Mapping[str, Any] | None = None,
    logger: Logger | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Resolved:
    """Open the images and complete the config of a run: ``config.from_options.resolve`` with the product's presets."""
    check_options(options, RunOptions)
    given = given_data(data, columns=label_columns(options))
    return resolve(
        method,
        given.specs,
        options,
        own=given.source,
        methods=METHODS,
        plan_method=plan_method,
        settings=settings,
        saved=saved,
        logger=logger,
    )


def open_images(data: Data, columns: Columns, logger: Logger, tell_labels: bool = False) -> ImageSource:
    """Open images for a command that has no settings of a run, and say how they were found where that was a choice.

    Args:
        data: paths, or images of the caller's own.
        columns: where images and labels are.
        logger: receives these remarks.
        tell_labels: say the same of their labels; what evaluates them does so itself.
    """
    source = given_data(data, columns=columns, read_labels=True, logger=logger).open(columns)
    for line in (*image_remarks(source), *(label_notes(source).remarks if tell_labels else ())):
        logger.warning(line)
    return source
