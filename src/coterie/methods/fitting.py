"""A run resolved and fitted into its budget by rehearsing it: for the plan in a process of its own, for the run in this one."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.config.describe import summary
from coterie.config.from_options import LENGTH, Resolved
from coterie.config.hardware import Runtime
from coterie.config.options import RunOptions
from coterie.config.schema import PretrainConfig
from coterie.data.sources.own_data import Data
from coterie.logger import Logger
from coterie.methods.budget import Fitted
from coterie.methods.budget_table import budget_table, measured_line
from coterie.methods.resolve import fit_request, fit_run, open_request
from coterie.reporting.run_callbacks import embedded_images
from coterie.training.build import build_loader, start_line
from coterie.training.callback import Callback
from coterie.training.custom_parts import CustomParts, with_custom_parts
from coterie.training.profiling.choose_threads import SECONDS, ChosenThreads, rehearse_once, with_measured_threads
from coterie.training.profiling.estimate import Alternative, Plan, estimate
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal_process import planned_rehearsal
from coterie.training.run import Run
from coterie.training.run_folder import RunFolder
from coterie.training.time_budget import Ending, TimeBudget

OPEN = ("run.minutes", *LENGTH)
"""Where the user sets none of these and no method, a plan shows what several budgets would train."""
REHEARSAL_SHARE = 0.05
"""A rehearsal takes about this share of a short budget."""


def fit_here(
    method: str | None,
    data: Data,
    options: RunOptions,
    logger: Logger,
    *,
    began: float | None = None,
    parts: CustomParts | None = None,
    settings: Mapping[str, Any] | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Fitted:
    """Fit a run that begins in this process, which rehearses it where its budget has to be known.

    Several processes, shards and parts of the caller's are not rehearsed: their length is a guess, from the same facts in each.

    Args:
        method: as of :func:`coterie.methods.resolve.fit_run`.
        data: likewise.
        options: likewise.
        logger: receives progress and messages.
        began: ``time.monotonic()`` when the command began; None: now.
        parts: parts of the caller's.
        settings: further settings, by path.
        saved: the settings of the run that is resumed; None for a new run.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"

    def measure(run: Resolved) -> Rehearsal | None:
        config, minutes = with_custom_parts(run.config, parts), run.config.run.minutes
        if several or config.run.fsdp or config.custom:
            return None
        seconds = SECONDS if minutes is None else min(SECONDS, 60 * minutes * REHEARSAL_SHARE)
        found = rehearse_once(config, run.source, Runtime.of_run(config.run, logger), seconds)
        return None if found is None else found.rehearsal

    since = time.monotonic() if began is None else began

    def used() -> float:
        return 0.0 if several else time.monotonic() - since

    return fit_run(method, data, options, measure, used, settings=settings, logger=logger, saved=saved)


def budget_clock(config: PretrainConfig, fitted: Fitted, runtime: Runtime, began: float) -> TimeBudget | None:
    """The clock of a run's budget, if it has one.

    Args:
        config: settings of the run.
        fitted: how it was fitted into the budget.
        runtime: where it computes.
        began: ``time.monotonic()`` when its command began.
    """
    if config.run.minutes is None:
        return None
    ending, images = Ending(), len(fitted.resolved.source)
    if fitted.rehearsal is not None:
        planned = estimate(config, images, fitted.rehearsal, **embedded_images(config, images, runtime))
        ending = Ending(planned.reporting, planned.evaluating / config.total_steps(images))
    return TimeBudget(60 * config.run.minutes, fitted.most_steps, began=began, ending=ending)


def train_run(
    folder: RunFolder,
    fitted: Fitted,
    chosen: ChosenThreads,
    runtime: Runtime,
    callbacks: Sequence[Callback],
    parts: CustomParts | None,
    began: float,
) -> None:
    """Train a run to the end, within its budget if it has one.

    Args:
        folder: its folder.
        fitted: its images, and how it was fitted into its budget.
        chosen: its settings and their reasons.
        runtime: where it computes, and who receives its messages.
        callbacks: called during training.
        parts: parts of the caller's.
        began: ``time.monotonic()`` when the command began.

    Raises:
        UserError: something that the caller can fix, in one line.
    """
    config, source = chosen.config, fitted.resolved.source
    budget = budget_clock(config, fitted, runtime, began)
    Run(folder, source, config, runtime, callbacks, parts, chosen.reasons, budget).train()


def plan_run(
    method: str | None, data: Data, options: RunOptions, logger: Logger, parts: CustomParts | None = None
) -> Plan:
    """Plan a run as it would begin in another process, and estimate its time and memory.

    Args:
        method: as of :func:`coterie.methods.resolve.fit_run`.
        data: likewise.
        options: likewise.
        logger: receives progress and messages.
        parts: parts of the caller's.

    Raises:
        UserError: a run that must fail, and how to fix it, in one line.
    """
    began, rehearsing = time.monotonic(), 0.0

    def rehearsed(run: Resolved) -> Rehearsal:
        nonlocal rehearsing
        since, config = time.monotonic(), with_custom_parts(run.config, parts)
        found = planned_rehearsal(config, run.source, Runtime.of_run(config.run, logger), parts)
        rehearsing += time.monotonic() - since - found.ready
        return found

    request = open_request(method, data, options, logger=logger)
    fitted = fit_request(request, rehearsed, lambda: time.monotonic() - began - rehearsing)
    config, images = with_custom_parts(fitted.resolved.config, parts), len(fitted.resolved.source)
    runtime = Runtime.of_run(config.run, logger)
    start = start_line(config, images)
    loader = build_loader(config, fitted.resolved.source, runtime)
    rehearsal = fitted.rehearsal or rehearsed(fitted.resolved)
    before = time.monotonic() - began - rehearsing
    config, reasons = with_measured_threads(config, fitted.resolved.reasons, rehearsal)
    expected = estimate(config, images, rehearsal, before=before, **embedded_images(config, images, runtime))
    text, table, measured = summary(config, images, runtime.device), tuple[Alternative, ...](), None
    if request.method is None and request.planned and not any(request.asked(path) is not None for path in OPEN):
        table = budget_table(request, config, rehearsal, before + rehearsal.first, runtime.device.type)
        measured = measured_line(request.facts)
    return Plan(config, reasons, text, loader.steps_per_epoch, expected, start, table, measured)
