"""Embedding beside a plain script, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


@pytest.mark.slow
def test_embedding_beside_a_plain_script(tmp_path: Path, toy: Path) -> None:
    command = (str(BENCHMARKS / "embedding.py"), "--toy", "--shared", str(toy), "--out", str(tmp_path / "out.json"))
    status, said = run(command, tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    report = json.loads((tmp_path / "out.json").read_text())
    for name, images in (("photographs, ResNet-50, 224 pixels", 4), ("CIFAR-10, ResNet-18, 64 pixels", 10)):
        assert report[name]["images"] == images
        assert report[name]["cosine, coterie, float32"]["least"] > 0.999999  # the same pixels
        assert report[name]["cosine, coterie, as it comes"]["least"] > 0.999
        assert report[name]["contestants"]["coterie, float32"]["times_as_fast_as_script_cpu"] > 0
