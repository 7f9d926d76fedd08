"""The runs that are owed on a GPU, each at toy size on the CPU, so that they can start at once where there is one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from runs import RUNS, Job, Run, Where

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


@pytest.mark.parametrize("wanted", RUNS, ids=lambda each: each.name)
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
    listed = [line.split("|")[2].strip(" `") for line in owed.splitlines() if line.startswith("| ") and "| `" in line]
    assert listed == [each.name for each in RUNS]


def test_the_driver_stops_a_job_says_so_and_goes_on(toy: Path, tmp_path: Path):
    def driver(minutes: float) -> tuple[int, str]:
        call = [sys.executable, str(BENCHMARKS / "gpu" / "run.py"), "grouping", "--toy", "--work", str(tmp_path)]
        ended = subprocess.run(
            [*call, "--minutes", str(minutes)],
            env=os.environ | variables(toy),
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    status, said = driver(0.01)  # torch alone takes longer to import
    assert (status, "grouping: unfinished" in said) == (3, True), said
    assert not (tmp_path / "results" / "grouping.json").exists()
    status, said = driver(5)
    assert (status, "grouping: done" in said) == (0, True), said
    assert "smog" in json.loads((tmp_path / "results" / "grouping.json").read_text())["methods"]
    status, said = driver(0)
    assert (status, "grouping: there" in said) == (0, True), said


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
@pytest.mark.parametrize("contestant", ["lightly-swav", "lightly-swav-fed"])
def test_a_training_of_lightly_that_was_stopped_ends_as_if_it_had_not_been(contestant: str, toy: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for work, *more in [(whole,), (broken, "--stop-after", "1"), (broken,)]:
        status, said = run(cifar(toy, work, contestant, *more), tmp_path / "log", variables(toy))
        assert status == (3 if more else 0), said
    assert figures(broken) == figures(whole)
