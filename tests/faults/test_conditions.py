"""Two runs in one folder, a clock that jumps, a loss that becomes NaN."""

import random
import re
import time
from pathlib import Path

from coterie.training.checkpoint_io import load
from tests.faults.running import Run, assert_same_runs, error_line


def test_two_runs_in_one_folder(shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    first = Run(shard, tmp_path / "run")
    assert first.has_saved()
    status, output = Run(shard, tmp_path / "run").end()
    assert first.process.is_alive(), "the first run ended before the second was refused"
    assert status == 2, output
    assert "is in use by another process" in error_line(output)
    assert first.end()[0] == 0
    assert_same_runs(tmp_path / "run", undisturbed)


def test_two_runs_that_start_at_once(shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    both = [Run(shard, tmp_path / "run") for _ in range(2)]
    ends = sorted(each.end() for each in both)
    assert [status for status, _ in ends] == [0, 2]
    assert "is in use by another process" in error_line(ends[1][1])
    assert_same_runs(tmp_path / "run", undisturbed)


def jumping() -> None:
    """The wall clock jumps back and forth by days; the monotonic clock does not."""
    true, jumps = time.time, random.Random(0)
    time.time = lambda: true() + jumps.uniform(-1e6, 1e6)
    assert min(time.time() - time.time() for _ in range(100)) < -86_400


def test_a_clock_that_jumps(shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    status, output = Run(shard, tmp_path / "run", workers=2, before=jumping).end()
    assert status == 0, output
    assert_same_runs(tmp_path / "run", undisturbed)
    speeds = re.findall(r'"images_per_second": ([-\d.e+]+)', (tmp_path / "run" / "metrics.jsonl").read_text())
    assert all(0 < float(speed) < 1e5 for speed in speeds)


def test_a_loss_that_becomes_nan(shard: Path, tmp_path: Path) -> None:
    """A learning rate that rises until the weights overflow."""
    rising = "learning_rate={kind='linear', start=0.001, end=1e38}"
    status, output = Run(shard, tmp_path / "run", rising).end()
    print(output)
    assert status == 2, output
    assert "are not finite" in error_line(output) or "no longer finite" in error_line(output)
    _, state, passed_over = load(tmp_path / "run" / "checkpoint")
    assert passed_over == []
    assert state is None or all(each.isfinite().all() for each in state["student"].values() if each.is_floating_point())
