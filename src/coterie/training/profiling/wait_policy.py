"""How OpenMP's threads wait for each other: what this machine was found to be fastest with, kept in the cache folder.

A thread that has nothing to do may spin for a moment before it sleeps, which is OpenMP's default, or sleep at once
(``OMP_WAIT_POLICY=PASSIVE``). OpenMP reads the variable when torch is imported, so nothing here needs torch.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import IO

from coterie.atomic import write_text
from coterie.data.sources.local_cache import cache_folder
from coterie.errors import UserError
from coterie.signals import raising
from coterie.training.profiling.cores import processor
from coterie.usable_cores import usable_cores

VARIABLE = "OMP_WAIT_POLICY"
PASSIVE, DEFAULT = "PASSIVE", ""
"""Values of the variable; the second one stands for none."""
TRIAL = (sys.executable, "-P", "-m", "coterie.training.profiling.wait_trial")
ROUNDS, FEWEST_ROUNDS, SECONDS = 6, 2, 6.0
"""How often both policies have a turn; fewer times where other processes make a turn take long."""
WORTH_SPINNING = 1.03
"""By which factor sleeping must be slower to be given up: it is what costs least when other processes come."""
MOST_ANSWERS = 200


def current_policy() -> str:
    """The policy of this process, as its environment says now."""
    return os.environ.get(VARIABLE, DEFAULT).upper()


def known_policy(busy: int) -> str | None:
    """The faster policy on this machine while other processes keep so many cores busy; None: it was not measured."""
    answer = _answers().get(_machine(busy))
    return answer if answer in (PASSIVE, DEFAULT) else None


def save_policy(busy: int, policy: str) -> None:
    """Keep an answer; where the folder cannot be written, do nothing."""
    answers = _answers()
    answers.pop(_machine(busy), None)
    recent = [*answers.items()][1 - MOST_ANSWERS :]
    with suppress(OSError, UserError):
        write_text(_path(), json.dumps({**dict(recent), _machine(busy): policy}, indent=2) + "\n")


def measured_policy() -> str | None:
    """Try both policies in processes of their own, which take turns; None: they could not be tried."""
    children = {policy: _start(policy) for policy in (PASSIVE, DEFAULT)}
    times: dict[str, list[float]] = {policy: [] for policy in children}
    try:
        for child in children.values():
            _next_number(child)  # it is ready
        began = time.monotonic()
        for turn in range(ROUNDS):
            if turn >= FEWEST_ROUNDS and time.monotonic() - began > SECONDS:
                break
            for policy in sorted(children, reverse=turn % 2 == 1):
                times[policy].append(_turn(children[policy]))
    except (OSError, ValueError):
        return None
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    return faster_policy(times[PASSIVE], times[DEFAULT])


def faster_policy(passive: list[float], default: list[float]) -> str:
    """The policy to take, from the times of a step in turns with each other."""
    slower = median(ours / theirs for ours, theirs in zip(passive, default, strict=True))
    return DEFAULT if slower >= WORTH_SPINNING else PASSIVE


def policy_line(known: str) -> str | None:
    """What to set, where another policy than that of this process was found to be faster; else None."""
    if known == current_policy() or (known, current_policy()) == (DEFAULT, "ACTIVE"):
        return None
    how = f"start it with {VARIABLE}={known}" if known else f"start it without {VARIABLE}"
    return f"on this machine a process trains faster with several threads if you {how}"


def _machine(busy: int) -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{processor()}, {len(usable_cores())} cores, {threads} threads, torch {version('torch')}, {busy} busy"


def _answers() -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(_path().read_text())
        if isinstance(found, dict):
            return {machine: policy for machine, policy in found.items() if isinstance(policy, str)}
    return {}


def _path() -> Path:
    return cache_folder() / "wait_policy.json"


def _start(policy: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        TRIAL,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # signals of a terminal or a scheduler are for this process, which ends that one
        text=True,
        env=own | paths | ({VARIABLE: policy} if policy else {}),
    )


def _turn(child: subprocess.Popen[str]) -> float:
    """The time of a step in one turn of a child."""
    line: IO[str] | None = child.stdin
    assert line is not None
    line.write("\n")
    line.flush()
    return _next_number(child)


def _next_number(child: subprocess.Popen[str]) -> float:
    assert child.stdout is not None
    with raising():
        return float(child.stdout.readline())
