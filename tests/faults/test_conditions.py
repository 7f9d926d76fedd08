"""Two runs on one folder, a clock that jumps, a loss that is no number."""

import random
import re
import time
from pathlib import Path

from coterie.training.checkpoint_io import load
from tests.faults.running import Run, assert_same_runs, complaint


def test_two_runs_on_one_folder(shard: Path, whole: Path, tmp_path: Path) -> None:
    first = Run(shard, tmp_path / "run")
    assert first.has_saved()
    status, said = Run(shard, tmp_path / "run").end()
    assert first.process.is_alive(), "the first ended before the second was refused"
    assert status == 2, said
    assert "is in use by another process" in complaint(said)
    assert first.end()[0] == 0
    assert_same_runs(tmp_path / "run", whole)


def test_two_runs_that_start_together(shard: Path, whole: Path, tmp_path: Path) -> None:
    both = [Run(shard, tmp_path / "run") for _ in range(2)]
    ends = sorted(each.end() for each in both)
    assert [status for status, _ in ends] == [0, 2]
    assert "is in use by another process" in complaint(ends[1][1])
    assert_same_runs(tmp_path / "run", whole)


def jumping() -> None:
    """The clock on the wall goes to and fro by days; the one that only counts does not."""
    true, jumps = time.time, random.Random(0)
    time.time = lambda: true() + jumps.uniform(-1e6, 1e6)
    assert min(time.time() - time.time() for _ in range(100)) < -86_400


def test_a_clock_that_jumps(shard: Path, whole: Path, tmp_path: Path) -> None:
    status, said = Run(shard, tmp_path / "run", workers=2, before=jumping).end()
    assert status == 0, said
    assert_same_runs(tmp_path / "run", whole)
    said_speeds = re.findall(r'"images_per_second": ([-\d.e+]+)', (tmp_path / "run" / "metrics.jsonl").read_text())
    assert all(0 < float(speed) < 1e5 for speed in said_speeds)


def test_a_loss_that_is_no_number(shard: Path, tmp_path: Path) -> None:
    """A learning rate that rises for two epochs, until the weights are no longer numbers."""
    rising = "learning_rate={kind='linear', start=0.001, end=1e38}"
    status, said = Run(shard, tmp_path / "run", rising).end()
    print(said)
    assert status == 2, said
    assert "not numbers" in complaint(said) or "no longer numbers" in complaint(said)
    _, state, passed_over = load(tmp_path / "run" / "checkpoint")
    assert passed_over == []
    assert state is None or all(each.isfinite().all() for each in state["student"].values() if each.is_floating_point())
