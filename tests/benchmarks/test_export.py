"""Which network goes into which format, at toy size."""

import json
from pathlib import Path

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


def test_differences_and_refusals(tmp_path: Path) -> None:
    sizes = (
        f"--networks resnet18:w0.125 --size 32 --formats safetensors torchvision --repeats 1 --out {tmp_path}/out.json"
    )
    status, said = run((str(BENCHMARKS / "export.py"), *sizes.split()), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    row = json.loads((tmp_path / "out.json").read_text())["networks"]["resnet18:w0.125"]
    assert row["safetensors"]["difference"] == 0
    assert row["torchvision"]["refused"].startswith("torchvision cannot hold this resnet18: ")
    assert row["times_as_fast_as_eager_cpu"] == {}
