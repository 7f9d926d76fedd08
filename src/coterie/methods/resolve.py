"""The options of a command or a call, completed by the product's presets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.from_options import Resolved, resolve
from coterie.config.options import RunOptions, check_options
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


def path_strings(paths: Paths) -> tuple[str, ...]:
    """One path or several as a tuple of strings."""
    if isinstance(paths, (str, Path)):
        return (str(paths),)
    return tuple(str(path) for path in paths)
