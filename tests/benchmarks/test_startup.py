"""What the commands take before their real work, at toy size."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


@pytest.mark.slow  # a dozen processes, each of which imports torch
def test_what_starting_takes(tmp_path: Path) -> None:
    sizes = f"--toy --images 100 --repeats 1 --out {tmp_path}/out.json".split()
    status, said = run((str(BENCHMARKS / "startup.py"), *sizes), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    rows = json.loads((tmp_path / "out.json").read_text())["contestants"]
    assert rows.keys() == {"torch_timm", "pretrain", "evaluate", "report", "report_without_map"}
    assert rows["report_without_map"]["cpu_seconds"] < rows["report"]["cpu_seconds"]
    assert all(len(each["each_repeat"]["cpu"]) == 1 and each["cpu_seconds"] > 1 for each in rows.values())
