"""Predicting beside embedding, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


@pytest.mark.slow
def test_predict_beside_embed(tmp_path: Path, toy: Path) -> None:
    command = (str(BENCHMARKS / "predict.py"), "--toy", "--shared", str(toy), "--out", str(tmp_path / "out.json"))
    status, said = run(command, tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    report = json.loads((tmp_path / "out.json").read_text())
    found = report["CIFAR-10, ResNet-18, 32 pixels"]["contestants"]
    assert found["kNN among 1,000, 100 classes"]["times_as_fast_as_embed_cpu"] > 0
