"""The runs that are owed on a GPU, each at toy size on the CPU, so that they can start at once where there is one."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prepare import project_files
from runs import GPU_TESTS, LEASE, MORE, RUNS, Job, Run, Where

from coterie.config.facts import Facts
from coterie.config.overrides import parse_override, set_path
from coterie.config.toml import from_dict, to_dict
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run, start

HAS_LIGHTLY = find_spec("lightly") is not None
needs_lightly = pytest.mark.skipif(not HAS_LIGHTLY, reason="lightly is not installed: scripts/install benchmark")


def where(toy: Path, work: Path) -> Where:
    return Where(toy, work, "cpu", toy=True)


def variables(toy: Path) -> dict[str, str]:
    return {"COTERIE_SHARED": str(toy), "OMP_NUM_THREADS": "1"}


def result(job: Job, out: Path, toy: Path) -> dict[str, Any]:
    status, said = run((*job.command[1:], "--out", str(out)), out.with_suffix(".log"), variables(toy))
    assert status == 0, said
    return json.loads(out.read_text())


def numbers(report: Any) -> Iterator[float]:
    """Every number of a result."""
    if isinstance(report, dict):
        for value in report.values():
            yield from numbers(value)
    elif isinstance(report, list):
        for value in report:
            yield from numbers(value)
    elif isinstance(report, float | int):
        yield report


BY_THE_ONE_COMMAND = ("tests", "end_to_end", "decoding", "cifar_40")
"""They take longer than the others; ``test_the_one_command_from_a_folder_as_on_the_device`` runs all of a lease."""


@pytest.mark.parametrize(
    "wanted",
    [
        *(each for each in LEASE if each.name not in BY_THE_ONE_COMMAND),
        *(pytest.param(each, marks=pytest.mark.slow) for each in MORE),
    ],
    ids=lambda each: each.name,
)
def test_every_run_at_toy_size(wanted: Run, toy: Path, tmp_path: Path):
    jobs = [job for job in wanted.jobs(where(toy, tmp_path)) if HAS_LIGHTLY or not job.lightly]
    if not jobs:
        pytest.skip("lightly is not installed: scripts/install benchmark")
    for job in jobs:
        report = result(job, tmp_path / f"{job.name}.json", toy)
        assert sum(number > 0 for number in numbers(report)) >= 2, report


@pytest.mark.parametrize("wanted", RUNS, ids=lambda each: each.name)
def test_the_real_jobs_are_understood(wanted: Run, toy: Path, tmp_path: Path):
    jobs = [job for job in wanted.jobs(Where(toy, tmp_path, "cuda", toy=False)) if HAS_LIGHTLY or not job.lightly]
    for job in jobs:
        command = (*job.command[1:], "--out", str(tmp_path / "out.json"))
        status, said = run(command, tmp_path / "log", variables(toy), parse_only=True)
        assert status == 0, said
        check_settings(job)
    assert jobs or not HAS_LIGHTLY


def check_settings(job: Job) -> None:
    """Refuses settings that the preset does not have for CIFAR-10."""
    chosen = [value for flag, value in zip(job.command, job.command[1:], strict=False) if flag == "--set"]
    method = next((each.removeprefix("coterie-") for each in job.command if each.startswith("coterie-")), None)
    if chosen and method:
        settings = to_dict(METHODS[method](Planner(Facts(45_000, 32)))) | {"data": ["cifar"]}
        for path, value in map(parse_override, chosen):
            set_path(settings, path, value)
        from_dict(settings)


def test_names_are_unique_and_the_list_of_what_is_owed_is_this_one(toy: Path, tmp_path: Path):
    jobs = [job.name for each in RUNS for job in each.jobs(Where(toy, tmp_path, "cuda", toy=False))]
    assert len(set(jobs)) == len(jobs)
    owed = (BENCHMARKS / "gpu.md").read_text()
    listed = [line.split("|")[1].strip(" `") for line in owed.splitlines() if line.startswith("| ") and "| `" in line]
    assert listed == [each.name for each in RUNS]


def driver(tree: Path, toy: Path, *more: str) -> tuple[int, str]:
    """What ``run.py`` in a working tree ends with, and says."""
    ended = subprocess.run(
        [sys.executable, "benchmarks/gpu/run.py", "--toy", *more],
        cwd=tree, env=os.environ | variables(toy), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


def test_a_call_ends_in_time_and_the_next_one_does_what_is_left(toy: Path, tmp_path: Path):
    tree, results = BENCHMARKS.parent, tmp_path / "gpu.json"
    call = ("grouping", "--carried", str(toy), "--work", str(tmp_path / "work"), "--out", str(results))
    status, said = driver(tree, toy, *call, "--minutes", "0.1")  # what a job may need to save and leave is not there
    assert (status, "grouping: left for the next call: 0.01 minutes, of 0.0" in said) == (3, True), said
    assert not results.exists()
    status, said = driver(
        tree, toy, *call, "--minutes", "0.38"
    )  # torch takes longer to import than the three seconds left
    assert (status, "grouping: stopped" in said) == (3, True), said
    assert list(json.loads(results.read_text())["without_result"]) == ["grouping"]
    status, said = driver(tree, toy, *call, "--minutes", "5", "--copy", str(tmp_path / "copy"))
    assert (status, "grouping: done" in said) == (0, True), said
    found = json.loads(results.read_text())
    assert "smog" in found["results"]["grouping"]["methods"]
    assert found["without_result"] == {}
    assert json.loads((tmp_path / "copy" / "gpu.json").read_text()) == found
    status, said = driver(tree, toy, *call, "--work", str(tmp_path / "new"), "--minutes", "0")  # another machine
    assert (status, "grouping: there" in said) == (0, True), said


@pytest.mark.slow
def test_the_one_command_from_a_folder_as_on_the_device(toy: Path, tmp_path: Path):
    tree, results = tmp_path / "tree", tmp_path / "copy" / "gpu.json"
    for path in project_files():
        if path.is_file():
            (tree / path.relative_to(BENCHMARKS.parent)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / path.relative_to(BENCHMARKS.parent))
    prepare = (str(BENCHMARKS / "gpu" / "prepare.py"), "--without-wheels", "--out", str(tree / ".carry"))
    status, said = run((*prepare, "--most", "1"), tmp_path / "log", variables(toy))
    assert (status, "together more than 1 MiB" in said) == (1, True), said
    status, said = run(prepare, tmp_path / "log", variables(toy))
    assert status == 0, said
    call = ("--carried", ".carry", "--copy", str(results.parent))
    nowhere = tmp_path / "nothing"  # what the jobs read is in the folder that was carried
    status, said = driver(tree, nowhere, *call, "--minutes", "0.6")
    assert status == 3, said
    some = list(json.loads(results.read_text())["results"])
    jobs = [job.name for each in LEASE for job in each.jobs(where(toy, tmp_path)) if HAS_LIGHTLY or not job.lightly]
    assert 0 < len(some) < len(jobs)
    assert some == jobs[: len(some)]
    status, said = driver(tree, nowhere, *call, "--minutes", "9")
    assert status == 0, said
    assert all(f"{name}: there" in said for name in some), said
    found = json.loads(results.read_text())
    assert sorted(found["results"]) == sorted(jobs)  # what took too long at first, on a busy machine, comes last
    assert found["without_result"] == {}
    assert found == json.loads((tree / "build" / "gpu_toy" / "gpu.json").read_text())
    for report in found["results"].values():
        assert sum(number > 0 for number in numbers(report)) >= 2, report


def test_the_files_with_tests_for_a_gpu_are_named():
    root = BENCHMARKS.parent
    marked = {
        str(path.relative_to(root))
        for path in (root / "tests").rglob("test_*.py")
        if re.search(r"^(@|pytestmark = \[?\s*)pytest\.mark\.gpu", path.read_text(), re.MULTILINE)
    }
    assert marked == set(GPU_TESTS)


def test_jobs_of_a_lease_are_short_and_the_page_states_their_minutes(toy: Path, tmp_path: Path):
    owed = [line.split("|") for line in (BENCHMARKS / "gpu.md").read_text().splitlines()]
    stated = {row[1].strip(" `"): row[2].strip() for row in owed if len(row) == 7}
    for each in LEASE:
        minutes = [job.minutes for job in each.jobs(Where(toy, tmp_path, "cuda", toy=False))]
        assert max(minutes) <= 3
        assert stated[each.name] == f"{sum(minutes):.1f}"


def cifar(toy: Path, work: Path, contestant: str, *more: str) -> tuple[str, ...]:
    network = ("--set", "backbone.width=0.125", "--set", "run.snapshots=0", "--set", "run.save_steps=5")
    return (
        str(BENCHMARKS / "gpu" / "cifar.py"), contestant, "--data", str(toy / "data" / "cifar10"), "--work", str(work),
        "--out", f"{work}.json", "--device", "cpu", "--workers", "0", "--epochs", "3",
        *(network if contestant.startswith("coterie") else ("--width", "0.125", "--batch", "64")), *more,
    )  # fmt: skip


def figures(work: Path) -> dict[str, Any]:
    return json.loads(Path(f"{work}.json").read_text())["figures"]


def test_a_training_of_ours_that_was_stopped_ends_as_if_it_had_not_been(toy: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    status, said = run(cifar(toy, whole, "coterie-smog"), tmp_path / "log", variables(toy))
    assert status == 0, said
    command = cifar(toy, broken, "coterie-smog")
    process = start(command, tmp_path / "log", variables(toy))
    while not list((broken / "run" / "checkpoint").glob("step-*.pt")):
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode != 0
    assert not Path(f"{broken}.json").exists()
    status, said = run(command, tmp_path / "log", variables(toy))
    assert status == 0, said
    assert figures(broken) == figures(whole)
    assert len(json.loads(Path(f"{broken}.json").read_text())["seconds_of_each_call"]) == 2


@needs_lightly
@pytest.mark.slow
@pytest.mark.parametrize("contestant", ["lightly-swav", "lightly-swav-fed"])
def test_a_training_of_lightly_that_was_stopped_ends_as_if_it_had_not_been(contestant: str, toy: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for work, *more in [(whole,), (broken, "--stop-after", "1"), (broken,)]:
        status, said = run(cifar(toy, work, contestant, *more), tmp_path / "log", variables(toy))
        assert status == (3 if more else 0), said
    assert figures(broken) == figures(whole)
