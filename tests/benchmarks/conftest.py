"""What the tests of the benchmarks share."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "gpu")]
sys.path.append(str(BENCHMARKS / "quality"))  # at the end: it has a prepare.py and a run.py too


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the layout of the shared folder, a few and tiny."""
    from prepare import toy_data

    folder = tmp_path_factory.mktemp("toy")
    toy_data(folder)
    return folder
