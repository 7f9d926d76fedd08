"""What all tests share: one thread, the same random numbers every time, no network, and the folder of large data."""

import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "COTERIE_CACHE" not in os.environ:  # nothing of the tests stays in the user's cache
    os.environ["COTERIE_CACHE"] = tempfile.mkdtemp(prefix="coterie-tests-")
    atexit.register(shutil.rmtree, os.environ["COTERIE_CACHE"], ignore_errors=True)

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent

hypothesis.settings.register_profile("coterie", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("coterie")


def pytest_configure(config: pytest.Config) -> None:
    """Runs of tests may warn; whoever tests that catches it. (Not in pyproject.toml: jaxtyping must see every import.)"""
    config.addinivalue_line("filterwarnings", "ignore::coterie.errors.CoterieWarning")


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    """Seed the generators and use one thread, whatever ran before the test."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- scikit-learn uses this generator by default
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and CIFAR-10 beside the project; tests that need it skip without it."""
    folder = Path(os.environ.get("COTERIE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no data in {folder}: set COTERIE_SHARED to a folder that holds data/")
    return folder
