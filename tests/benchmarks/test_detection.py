"""Detectors from new weights and from a run, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run

pytest.importorskip("pycocotools")


@pytest.mark.slow
def test_new_weights_and_a_run(tmp_path: Path) -> None:
    command = (str(BENCHMARKS / "detection.py"), "--toy", "--seed", "0", "--arms", "untrained,new,coterie")
    status, said = run((*command, "--out", str(tmp_path / "rows")), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    rows = {each["arm"]: each for each in (json.loads(file.read_text()) for file in (tmp_path / "rows").glob("*.json"))}
    assert rows.keys() == {"untrained", "new", "coterie"}
    assert [rows[arm]["passes"] for arm in ("untrained", "new", "coterie")] == [0, 1, 1]
    assert rows["coterie"]["pretraining"]["epochs"] == 1
    assert all(0 <= each["figures"]["ap50"] <= 100 for each in rows.values())
