"""A loader worker that is killed, hangs or runs out of memory: one error line, and the same command resumes."""

import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from coterie.data.loading import worker_watchdog
from tests.faults.running import Run, assert_same_runs, error_line, finished, seeded

MIB = 2**20


def impatient(seconds: int) -> None:
    worker_watchdog.WORKER_TIMEOUT_SECONDS = seconds


def run_and_worker(shard: Path, out: Path, **how) -> tuple[Run, int]:
    """A run some time after its first checkpoint, and the process ID of one of its loader workers."""
    run = Run(shard, out, workers=2, **how)
    assert run.has_saved(), run.output()
    time.sleep(seeded().uniform(0, 0.3))
    return run, run.workers()[-1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed(shard: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    run, worker = run_and_worker(shard, tmp_path / "run")
    os.kill(worker, number)
    status, output = run.end()
    assert status == 2, output
    assert "a loader worker was killed, most often for lack of memory" in error_line(output)
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", undisturbed)


def test_a_worker_that_hangs(shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, worker = run_and_worker(shard, tmp_path / "run", before=partial(impatient, 5))
    os.kill(worker, signal.SIGSTOP)
    status, output = run.end()
    assert status == 2, output
    assert "the loader workers returned nothing for 5 seconds" in error_line(output)
    assert not Path(f"/proc/{worker}").exists(), "the hanging worker was left behind"
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", undisturbed)


def test_a_worker_without_memory(shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, worker = run_and_worker(shard, tmp_path / "run")
    resource.prlimit(worker, resource.RLIMIT_AS, (MIB, MIB))
    status, output = run.end()
    assert status == 2, output
    assert "memory" in error_line(output)
    finished(shard, tmp_path / "run")
    assert_same_runs(tmp_path / "run", undisturbed)
