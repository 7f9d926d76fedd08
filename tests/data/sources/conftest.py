"""An empty cache for every test of sources, and which shards are read."""

from pathlib import Path

import pytest

from coterie.data.sources import shards as shards_module
from coterie.data.sources.tar_index import read_index


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / ".cache"))
    return tmp_path / ".cache"


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the shards whose headers are read."""
    seen: list[str] = []

    def read(file, path, label_key):
        seen.append(Path(path).name)
        return read_index(file, path, label_key)

    monkeypatch.setattr(shards_module, "read_index", read)
    return seen
