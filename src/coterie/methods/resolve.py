"""The options of a command or a call, completed by the product's presets, and fitted into a budget where there is one."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.choice import Choice
from coterie.config.from_options import Request, Resolved
from coterie.config.hardware import choose_device
from coterie.config.options import RunOptions, check_options, label_columns
from coterie.config.rules import doubts
from coterie.data.sources.own_data import Data, given_data
from coterie.logger import Logger
from coterie.methods.budget import DEFAULT_MINUTES, BudgetPlan, Fitted, Measure, choose_method, is_long
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
    """Open the images and complete the config of a run: ``config.from_options.Request`` with the product's presets."""
    return open_request(method, data, options, settings, logger, saved).resolved()


def fit_run(
    method: str | None,
    data: Data,
    options: RunOptions,
    measure: Measure,
    used: Callable[[], float],
    *,
    settings: Mapping[str, Any] | None = None,
    logger: Logger | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Fitted:
    """Resolve a run as :func:`resolve_run` does, and choose what is left open for its budget.

    Without a method, one is chosen. A run on a CPU of which neither time nor length is given is fitted into about an hour. A
    run that is resumed keeps what it has.

    Args:
        method: a preset; None: it is chosen, unless a config file or the run that is resumed has it.
        data: the images.
        options: those of :class:`RunOptions`.
        measure: rehearses a run.
        used: seconds of the budget that are used by now.
        settings: further settings of the caller, by path.
        logger: receives progress and messages.
        saved: the settings of the run that is resumed; None for a new run.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    return fit_request(open_request(method, data, options, settings, logger, saved), measure, used, new=not saved)


def fit_request(request: Request, measure: Measure, used: Callable[[], float], *, new: bool = True) -> Fitted:
    """Choose what a request leaves open for its budget: :func:`fit_run`. What may not work is said.

    Args:
        request: what the caller wants, with its images opened.
        measure: rehearses a run.
        used: seconds of the budget that are used by now.
        new: false: a run is resumed, and keeps what it has.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    fitted = _fitted(request, measure, used, new=new)
    for line in doubts(fitted.resolved.config):
        request.logger.warning(line)
    return fitted


def _fitted(request: Request, measure: Measure, used: Callable[[], float], *, new: bool) -> Fitted:
    minutes, images = request.asked("run.minutes"), len(request.source)
    if not request.planned:
        resolved = request.resolved()
        minutes = resolved.config.run.minutes if new else None
        if minutes is None:
            return Fitted(resolved, None, resolved.config.total_steps(images))
    device = request.asked("run.device")
    kind = choose_device(device if isinstance(device, str) else "auto").type
    if isinstance(minutes, int | float) and 0 < minutes < math.inf:
        return BudgetPlan(request, minutes, measure, used, device=kind).fitted()
    if minutes is None and is_long(request, kind):
        return BudgetPlan(request, DEFAULT_MINUTES, measure, used, device=kind, default=True).fitted()
    chosen, why = (None, "") if request.method is not None else choose_method(request.facts, DEFAULT_MINUTES)
    resolved = request.resolved(Choice(chosen, reasons={} if chosen is None else {"method": why}))
    return Fitted(resolved, None, resolved.config.total_steps(images))


def open_request(
    method: str | None,
    data: Data,
    options: RunOptions,
    settings: Mapping[str, Any] | None = None,
    logger: Logger | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Request:
    """What the options of a command or a call want, with its images opened; the arguments are those of :func:`fit_run`."""
    check_options(options, RunOptions)
    given = given_data(data, columns=label_columns(options))
    return Request(
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
