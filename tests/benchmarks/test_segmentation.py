"""Segmentation from colors, new weights and a run, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


@pytest.mark.slow
def test_colors_new_weights_and_a_run(tmp_path: Path) -> None:
    command = (str(BENCHMARKS / "segmentation.py"), "--toy", "--seed", "0", "--arms", "color,untrained,coterie")
    status, said = run((*command, "--out", str(tmp_path / "rows")), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    rows = {each["arm"]: each for each in (json.loads(file.read_text()) for file in (tmp_path / "rows").glob("*.json"))}
    assert rows.keys() == {"color", "untrained", "coterie"}
    assert rows["coterie"]["pretraining"]["epochs"] == 1
    assert rows["color"]["figures"]["miou"] > 99  # of made-up cells, brightness says it all
    assert all(0 <= each["figures"]["miou"] <= 100 for each in rows.values())
