from pathlib import Path

import pytest

from tests.faults.running import finished, write_shard


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """165 photographs of 16 pixels in a tar shard."""
    return write_shard(tmp_path_factory.mktemp("images") / "photos.tar")


@pytest.fixture(scope="session")
def whole(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(shard, out, workers=2)
    return out
