from pathlib import Path

import pytest

from tests.faults.running import finished, write_shard
from tests.small_report import small_report as small_report


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """165 photographs of 16 x 16 pixels in a tar shard."""
    return write_shard(tmp_path_factory.mktemp("images") / "photos.tar")


@pytest.fixture(scope="session")
def undisturbed(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of four epochs."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(shard, out, workers=2)
    return out
