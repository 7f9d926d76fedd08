"""What every test shares: one thread, the same numbers every time, no network, and where the big data are."""

import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start, too
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent

hypothesis.settings.register_profile("coterie", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("coterie")


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    """Every test starts from the same generators, on one thread, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- scikit-learn's default is this very generator
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and CIFAR-10 beside the project; a test that wants it skips where there is none."""
    folder = Path(os.environ.get("COTERIE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no data in {folder}: set COTERIE_SHARED to a folder that holds data/")
    return folder
