"""What a run records of its machine."""

import os
import platform
from importlib.metadata import version

import torch

from coterie.training.environment import environment


def test_hardware_and_versions() -> None:
    where = environment(torch.device("cpu"))
    assert where["device"] == f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {platform.machine()}"
    assert where["memory"].endswith(" GiB")
    assert float(where["memory"].split()[0]) > 0
    assert where["python"] == platform.python_version()
    assert torch.__version__.startswith(where["torch"])
    assert {"timm", "numpy", "pillow", "system"} <= where.keys()
    assert where["coterie"] == version("coterie")
