"""The demonstration at toy size: every step of it, no claim about its figures."""

from pathlib import Path

import pytest

import coterie.cli.demo
from coterie.logger import NullLogger


def test_the_whole_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TRAIN_IMAGES": 180, "TEST_IMAGES": 90, "SIDE": 16, "EPOCHS": 1, "BATCH_SIZE": 45}.items():
        monkeypatch.setattr(coterie.cli.demo, name, value)
    monkeypatch.setattr(coterie.cli.demo, "SETTINGS", ("backbone.width=0.125", "run.workers=0", "run.threads=1"))
    lines = coterie.demo(tmp_path / "demo", logger=NullLogger())
    assert [line.split()[0] for line in lines[1:4]] == ["raw", "untrained", "pretrained"]
    assert "gain over the better" in lines[4]
    page = (tmp_path / "demo" / "report.html").read_text()
    for words in ("raw pixels", "untrained network", "pretrained network", "Neighbors before and after"):
        assert words in page
    assert (tmp_path / "demo" / "run" / "model.safetensors").exists()
    again = coterie.demo(tmp_path / "demo")  # nothing is trained again, and it says the same
    assert again[:-1] == lines[:-1]
