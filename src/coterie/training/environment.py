"""Hardware and software versions of a run."""

import os
import platform
from importlib.metadata import version

import torch

from coterie.usable_cores import usable_cores


def environment(device: torch.device) -> dict[str, str]:
    """Describe device, memory, system, Python and library versions.

    Args:
        device: the device that trains.
    """
    cores = f"{len(usable_cores())} of {os.cpu_count()} cores, {platform.machine()}"
    processor = f"{torch.cuda.get_device_name(device)}; {cores}" if device.type == "cuda" else cores
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: version(name) for name in ("coterie", "torch", "timm", "numpy", "pillow")}
    machine = {"device": processor, "memory": f"{memory:.0f} GiB", "system": platform.platform()}
    return machine | {"python": platform.python_version()} | versions
