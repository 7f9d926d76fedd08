"""The corpus run over a few files: what is equal, what is refused, where second opinions differ."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run
from tests.data.pictures import deep_photo, deep_png, encoded, photo, tiff
from tests.data.tiffs import RGB, write_tiff


def test_equal_refused_and_disputed(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    thin = np.dstack([deep_photo() // 64, np.full((24, 32), 1023, np.uint16)])
    files = {
        "a.jpg": encoded(photo(), "JPEG"),
        "below/b.png": deep_png(deep_photo()),
        "below/c.tif": tiff(photo()),
        "d.tif": tiff(np.ones((4, 4), np.float32)),
        "no_suffix": encoded(photo(), "GIF"),
        "e.tif": write_tiff(thin, 16, RGB, extra=(1,)),  # Pillow divides what is left of 8 bits
        "cut.png": encoded(photo())[:300],
        "notes.txt": b"no image",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = (str(BENCHMARKS / "corpus.py"), str(folder), "--out", str(tmp_path / "out.json"))
    status, said = run(command, tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["files"] == 7
    assert found["outcomes"] == {"decoded": 4, "refused": 2, "opinions differ": 1}
    (disputed,) = found["to_look_at"].values()
    assert disputed["pillow"] > 30
    assert disputed["tifffile"] == pytest.approx(0, abs=0.1)
    assert any(reason.startswith("float32 values, whose range is not known") for reason in found["refused"])
    assert found["largest_difference_within_tolerance"] <= 1
