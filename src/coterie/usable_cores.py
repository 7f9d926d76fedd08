"""The cores that this process may use."""

import os


def usable_cores() -> set[int]:
    """Numbers of the cores that this process may run on; all of the machine's where the system cannot say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
