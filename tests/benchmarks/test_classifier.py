"""Classifiers from few and from all labels, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


@pytest.mark.slow
def test_few_and_all_labels(tmp_path: Path) -> None:
    command = (str(BENCHMARKS / "classifier.py"), "--toy", "--draws", "2", "--labels", "2")
    status, said = run((*command, "--out", str(tmp_path / "out.json")), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    report = json.loads((tmp_path / "out.json").read_text())
    assert len(report["few"]["2"]["coterie"]["draws"]) == 2
    assert report["all"]["labels"] == 24
    assert report["all"]["test"]["top1"] > 90  # three colors
    assert report["all"]["CPU seconds after embedding"] > 0
    assert report["uneven"]["balanced"] > 90


@pytest.mark.slow
def test_fine_tuning_beside_a_linear_layer(tmp_path: Path) -> None:
    command = (str(BENCHMARKS / "finetune.py"), "--toy", "--draws", "1", "--labels", "4", "--time", "20s")
    status, said = run((*command, "--out", str(tmp_path / "out.json")), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["few"]["4"]["linear"] > 90  # three colors
    assert report["all"]["finetune"]["epochs"] >= 1
