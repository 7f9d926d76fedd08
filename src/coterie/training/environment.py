"""Where a run took place: hardware and versions."""

import os
import platform
from importlib.metadata import version

import torch


def environment(device: torch.device) -> dict[str, str]:
    """Where it ran, and with what."""
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {platform.machine()}"
    on = f"{torch.cuda.get_device_name(device)}; {cores}" if device.type == "cuda" else cores
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: version(name) for name in ("coterie", "torch", "timm", "numpy", "pillow")}
    found = {"device": on, "memory": f"{memory:.0f} GiB", "system": platform.platform()}
    return found | {"python": platform.python_version()} | versions
