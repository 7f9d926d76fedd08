"""The benchmark of threads: its arithmetic, and all of it at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS


def test_the_share_is_of_the_best_fixed_choice() -> None:
    import threads

    product = {"ms_per_image": 6.0, "threads": 1, "waiting": "PASSIVE", "seconds_to_first_step": 12.34}
    slow = product | {"ms_per_image": 18.6}
    found = threads.compared(
        {"a": [slow], "b": [product | {"ms_per_image": each} for each in (5.1, 9.0, 5.4)], "product": [product]}
    )
    assert (found["best_fixed"], found["share"]) == ("b", 0.9)
    assert found["product"] == {"threads": 1, "waiting": "PASSIVE"}


@pytest.mark.slow
def test_all_of_it_at_toy_size(toy: Path, tmp_path: Path) -> None:
    sizes = ("--toy", "--seconds", "0.1", "--networks", "resnet18", "--conditions", "beside", "--fixed", "1 thread")
    paths = ("--data", str(toy / "data"), "--out", str(tmp_path / "out.json"))
    words = (sys.executable, str(BENCHMARKS / "threads.py"), *sizes, *paths)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    row = report["conditions"]["beside"]["resnet18"]
    assert row["best_fixed"] == "1 thread"
    assert row["product"]["threads"] in (1, 2)
    assert row["product"]["waiting"] in ("PASSIVE", "default")
    assert report["smallest_share"] == row["share"] > 0
