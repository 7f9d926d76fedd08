"""Sets how OpenMP's threads wait, before torch is imported and reads it: as this machine was found to be fastest."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from coterie.config.options import RunOptions
from coterie.usable_cores import usable_cores

GPU = Path("/dev/nvidiactl")
_is_ours = False


def wait_asleep() -> None:
    """Let threads wait asleep, unless the user says how they wait: it costs least beside other processes."""
    global _is_ours
    _is_ours = "OMP_WAIT_POLICY" not in os.environ
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def wait_as_is_fastest(options: RunOptions | None) -> None:
    """Let threads wait as trains fastest on this machine, as busy as it is now; what that is is tried once and kept.

    Nothing changes where the user says how they wait, where there is one thread, and where a GPU trains.

    Args:
        options: the options of the command.
    """
    settings = [text.replace(" ", "") for text in _texts((options or {}).get("settings", ()))]
    if not _is_ours or "torch" in sys.modules or not _has_threads(settings) or _has_gpu(settings):
        return
    from coterie.training.profiling.cores import cores_of_others
    from coterie.training.profiling.wait_policy import DEFAULT, VARIABLE, known_policy, measured_policy, save_policy

    busy = cores_of_others()
    if busy >= len(usable_cores()):  # no core is free for a thread that spins
        return
    policy = known_policy(busy)
    if policy is None:
        sys.stderr.write("trying how threads wait best on this machine (once, some seconds)\n")
        sys.stderr.flush()
        policy = measured_policy()
        if policy is None:
            return
        save_policy(busy, policy)
    if policy == DEFAULT:
        del os.environ[VARIABLE]


def _texts(settings: object) -> Iterable[str]:
    return [text for text in settings if isinstance(text, str)] if isinstance(settings, tuple | list) else []


def _has_threads(settings: Iterable[str]) -> bool:
    """Whether the process may have several threads, and the cores for itself."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    most = int(given) if given.isdecimal() else len(usable_cores())
    return most > 1 and "run.threads=1" not in settings and os.environ.get("WORLD_SIZE", "1") == "1"


def _has_gpu(settings: Iterable[str]) -> bool:
    """Whether a GPU is likely to train; torch, which knows, is not there yet."""
    return GPU.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "" and "run.device=cpu" not in settings
