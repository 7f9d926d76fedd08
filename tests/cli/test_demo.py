"""The demonstration at toy size: every step of it, without any claim about its accuracy."""

import subprocess
import sys
from pathlib import Path

import pytest

import coterie.cli.demo
from coterie.logger import NullLogger

WITHOUT_SCIKIT_IMAGE = "import sys; sys.modules['skimage'] = None; from coterie.cli.main import main; main()"


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
    again = coterie.demo(tmp_path / "demo")  # trains nothing, and comes to the same lines
    assert again[:-1] == lines[:-1]


def test_without_scikit_image_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SCIKIT_IMAGE, "demo", "--out", "new"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == (
        "coterie: the built-in photographs come with scikit-image, which is not installed: pip install 'coterie[demo]'\n"
    )
    assert not (tmp_path / "new").exists()
