"""The memory of processes, as Linux counts it."""

import os
from multiprocessing import active_children
from pathlib import Path


def proc_status_bytes(process: int, name: str) -> int:
    """The bytes in a line of ``/proc/PID/status`` or of ``smaps_rollup``; VmHWM is the peak of resident memory.

    Raises:
        KeyError: neither file has such a line.
    """
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    raise KeyError(name)


def private_bytes(process: int) -> int:
    """The bytes that a process does not share; pages that neither side has written since a fork are not counted."""
    return proc_status_bytes(process, "Private_Clean") + proc_status_bytes(process, "Private_Dirty")


def peak_bytes() -> int:
    """The peak of resident memory of this process."""
    return proc_status_bytes(os.getpid(), "VmHWM")


def worker_bytes() -> int:
    """The memory that the loader processes of this process do not share with it."""
    return sum(private_bytes(child.pid) for child in active_children() if child.pid)
