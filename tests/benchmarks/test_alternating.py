"""What the benchmarks repeat, and that moving it left their results as they were."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alternating import Times, alternate, machine, ratio, write_report

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


def test_every_repeat_begins_with_another_contestant_and_the_device_is_waited_for():
    said: list[str] = []
    turns = {name: lambda name=name: said.append(name) or name.upper() for name in ("a", "b", "c")}
    times, answers = alternate(turns, 3, lambda: said.append("-"))
    assert "".join(said) == "-a--b--c-" + "-b--c--a-" + "-c--a--b-"
    assert answers == {"a": "A", "b": "B", "c": "C"}
    assert all(len(each.wall) == len(each.cpu) == 3 for each in times.values())


def test_a_ratio_is_taken_within_a_repeat():
    times = {"ours": Times([1.0, 10.0, 1.0], [2.0, 2.0, 2.0]), "theirs": Times([2.0, 40.0, 30.0], [1.0, 1.0, 1.0])}
    assert ratio(times, "ours", "theirs") == 4.0  # 2, 4 and 30 times; the ratio of the medians is 30
    assert ratio(times, "theirs", "ours") == 0.25
    assert ratio(times, "ours", "theirs", "cpu") == 0.5


def test_a_report_is_there_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "new" / "report.json"
    with pytest.raises(TypeError):
        write_report(path, {"seconds": object()})
    assert not path.exists()
    write_report(path, machine(("torch",)))
    assert {"processor", "cores", "python", "versions", "device"} <= json.loads(path.read_text()).keys()


def test_threads_are_limited_before_torch_comes_in():
    code = (
        "import sys, os; sys.argv = ['x', '--threads', '3']; import alternating; n = alternating.limit_threads('1');"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; print(n, os.environ['OMP_NUM_THREADS'])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["3", "3"]


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("knn_probe", "--rows 300 --queries 60 --width 8 --repeats 1 --threads 1"),
        ("linear_probe", "--rows 300 --width 8 --repeats 2 --threads 1"),
    ],
)
def test_a_probe_s_benchmark_says_what_it_always_said(name: str, small: str, tmp_path: Path):
    out = tmp_path / "out.json"
    status, said = run((str(BENCHMARKS / f"{name}.py"), *small.split(), "--out", str(out)), tmp_path / "log", {})
    assert status == 0, said
    found, before = (json.loads(path.read_text()) for path in (out, BENCHMARKS / "results" / f"{name}.json"))
    assert found.keys() >= before.keys()
    assert found["contestants"].keys() == before["contestants"].keys()
    for contestant, row in before["contestants"].items():
        assert found["contestants"][contestant].keys() == row.keys()
