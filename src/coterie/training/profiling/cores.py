"""Who uses the cores of this process: the process itself with its children, or others. Nothing here needs torch."""

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

from coterie.usable_cores import usable_cores

SAMPLE_SECONDS = 0.25
_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE, _WAITING, _COUNTED = 3, 4, 8
"""Columns of a core in ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal; the rest is in those."""


@dataclass(frozen=True)
class CoreTimes:
    """Seconds that count from some moment in the past.

    Attributes:
        clock: by the clock.
        busy: of the cores that this process may use, by anybody; a virtual machine's host counts too.
        own: of CPU time of this process and its children.
    """

    clock: float
    busy: float
    own: float


@dataclass(frozen=True)
class CoreUse:
    """How many of the cores of this process were busy between two moments, on average.

    Attributes:
        own: with this process and its children.
        others: with other processes.
        cores: how many there are.
    """

    own: float
    others: float
    cores: int


def core_times() -> CoreTimes | None:
    """The times until now; None where the system does not tell."""
    cores, busy = usable_cores(), 0.0
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cores:
                ticks = [int(each) for each in columns[:_COUNTED]]
                busy += (sum(ticks) - ticks[_IDLE] - ticks[_WAITING]) / _TICKS
        return CoreTimes(time.monotonic(), busy, _own_seconds())
    return None


def core_use(before: CoreTimes, after: CoreTimes) -> CoreUse:
    """The use of the cores between two moments."""
    seconds = max(1e-3, after.clock - before.clock)
    own = max(0.0, after.own - before.own)
    others = max(0.0, after.busy - before.busy - own)
    return CoreUse(own / seconds, others / seconds, len(usable_cores()))


def cores_of_others(seconds: float = SAMPLE_SECONDS) -> int:
    """How many whole cores other processes keep busy now, from a sample of so many seconds; 0 where that is not known."""
    before = core_times()
    if before is None:
        return 0
    time.sleep(seconds)
    after = core_times()
    return 0 if after is None else round(core_use(before, after).others)


def processor() -> str:
    """The name of the processor's model."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _own_seconds() -> float:
    """CPU time of this process, and of its children that have ended or that still work."""
    times = os.times()
    ended = times.children_user + times.children_system
    return time.process_time() + ended + sum(_seconds_of(child.pid) for child in active_children() if child.pid)


def _seconds_of(process: int) -> float:
    with suppress(OSError, ValueError, IndexError):
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS
    return 0.0
