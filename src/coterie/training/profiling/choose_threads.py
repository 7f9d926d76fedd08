"""The number of threads of a new run, chosen before it is built: by an earlier rehearsal of such a run, or by a new one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource
from coterie.distributed.processes import broadcast_object
from coterie.errors import UserError
from coterie.logger import CheckedLogger, is_silent
from coterie.signals import Interrupted, check_interrupted
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal_cache import load_rehearsal, rehearsal_key, save_rehearsal
from coterie.training.profiling.rehearsal_here import rehearse_here
from coterie.training.profiling.threads import SETTING, only_reason, threads_to_try, with_threads
from coterie.training.profiling.wait_policy import known_policy, policy_line

SECONDS, QUIET_SECONDS = 9.0, 3.0
"""About how long a rehearsal before a run may take; where nobody listens, it serves the choice of threads alone."""


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal, and how it is found again.

    Attributes:
        key: its key in the cache, which that of the run with its chosen threads is not.
        rehearsal: what was measured.
    """

    key: dict[str, Any]
    rehearsal: Rehearsal


@dataclass(frozen=True)
class ChosenThreads:
    """The settings of a run with a number of threads, and where it comes from.

    Attributes:
        config: the settings.
        reasons: the reason for each automatic value, by the path of its setting.
        rehearsed: the rehearsal that chose; None: there was none.
    """

    config: PretrainConfig
    reasons: dict[str, str]
    rehearsed: Rehearsed | None = None


def choose_threads(
    config: PretrainConfig,
    reasons: Mapping[str, str],
    source: ImageSource,
    runtime: Runtime,
    *,
    new: bool = True,
    known: Rehearsal | None = None,
) -> ChosenThreads:
    """Choose the threads of a new run; of several processes, the first one's number counts.

    A run that is resumed keeps its number, which is in its checkpoint: there is nothing to choose.

    Args:
        config: its settings, in which ``run.threads`` is 0, or the caller's number, which stays.
        reasons: the reasons so far.
        source: its images.
        runtime: where it computes, and who receives progress and messages.
        new: false: a run is resumed.
        known: a rehearsal of the run, which there has been for its budget.

    Raises:
        Interrupted: a signal asked to stop. Errors of the run itself are left to the run.
    """
    if known is not None:
        key = rehearsal_key(config, source, runtime)
        return ChosenThreads(*with_measured_threads(config, reasons, known), Rehearsed(key, known))
    if config.run.threads or not new:
        return ChosenThreads(config, dict(reasons))
    tried = threads_to_try(config, runtime.device)
    rehearsed = rehearse_once(config, source, runtime) if len(tried) > 1 else None
    if rehearsed is not None:
        line = policy_line(policy) if (policy := known_policy(rehearsed.key["busy"])) is not None else None
        if line is not None and rehearsed.rehearsal.threads > 1:
            runtime.logger.info(line)
        return ChosenThreads(*with_measured_threads(config, reasons, rehearsed.rehearsal), rehearsed)
    threads, why = broadcast_object((torch.get_num_threads(), only_reason()))
    return ChosenThreads(with_threads(config, threads), {**reasons, SETTING: why})


def with_measured_threads(
    config: PretrainConfig, reasons: Mapping[str, str], rehearsal: Rehearsal
) -> tuple[PretrainConfig, dict[str, str]]:
    """Settings and reasons with the number of threads that a rehearsal took, unless the caller has set one."""
    if config.run.threads:
        return config, dict(reasons)
    threads = rehearsal.threads or torch.get_num_threads()
    return with_threads(config, threads), {**reasons, SETTING: rehearsal.why or only_reason()}


def rehearse_once(
    config: PretrainConfig, source: ImageSource, runtime: Runtime, seconds: float = SECONDS
) -> Rehearsed | None:
    """An earlier rehearsal of such a run, or a new one in this process; None where the run itself will say why not.

    Args:
        config: its settings.
        source: its images.
        runtime: where it computes, and who receives progress.
        seconds: about how long it may take, if somebody listens.

    Raises:
        Interrupted: a signal asked to stop.
    """
    logger = CheckedLogger(runtime.logger, check_interrupted)
    try:
        key = rehearsal_key(config, source, runtime)
        found = load_rehearsal(key)
        if found is None:
            seconds, tried = (
                min(seconds, QUIET_SECONDS) if is_silent(runtime.logger) else seconds,
                tuple(key["threads"]),
            )
            here = replace(runtime, logger=logger)
            found = rehearse_here(config, source, here, seconds, threads=tried, busy=key["busy"])
            save_rehearsal(key, found)
    except Interrupted:
        raise
    except UserError:
        return None
    return Rehearsed(key, found)
