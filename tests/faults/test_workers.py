"""A loader worker that is killed, hangs or finds no memory: one plain line, and the same command goes on."""

import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from coterie.data.loading import worker_watchdog as watch
from tests.faults.running import Run, assert_same_runs, complaint, finished, seeded


def impatient(seconds: int) -> None:
    watch.WORKER_TIMEOUT_SECONDS = seconds


def begun(shard: Path, out: Path, **how) -> tuple[Run, int]:
    """A run that has saved, somewhere after that, and one of its loader's workers."""
    run = Run(shard, out, workers=2, **how)
    assert run.has_saved(), run.said()
    time.sleep(seeded().uniform(0, 0.3))
    return run, run.workers()[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed(shard: Path, whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    run, worker = begun(shard, tmp_path / "run")
    os.kill(worker, number)
    status, said = run.end(within=60)
    assert status == 2, said
    assert "a loader worker was killed, most often for lack of memory" in complaint(said)
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", whole)


def test_a_worker_that_hangs(shard: Path, whole: Path, tmp_path: Path) -> None:
    run, worker = begun(shard, tmp_path / "run", before=partial(impatient, 2))
    os.kill(worker, signal.SIGSTOP)
    status, said = run.end(within=60)
    assert status == 2, said
    assert "the loader workers returned nothing for 2 seconds" in complaint(said)
    assert not Path(f"/proc/{worker}").exists(), "the worker that hangs was left behind"
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", whole)


def test_a_worker_without_memory(shard: Path, whole: Path, tmp_path: Path) -> None:
    run, worker = begun(shard, tmp_path / "run")
    resource.prlimit(worker, resource.RLIMIT_AS, (MIB, MIB))
    status, said = run.end(within=60)
    assert status == 2, said
    assert "memory" in complaint(said)
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", whole)


MIB = 2**20
