"""kill -9 at random moments, and the same command again: bitwise the run that nothing disturbed."""

import os
import random
import re
import time
from pathlib import Path

import pytest

from tests.faults.running import Run, assert_same_runs, finished, seeded

KILLS = 50 if os.environ.get("COTERIE_FAULTS") == "all" else 5
EPOCHS = KILLS + 3  # a kill costs the steps since the last save, and leaves eight or so done


def killed(run: Run, where: str, moments: random.Random) -> str:
    """Kill the run after a new save, where it is said; "" if that was missed, else what was being written."""
    began_at = run.steps()
    if where == "start":  # while it imports, takes over the checkpoint, rewinds the log
        time.sleep(moments.uniform(0, 2))
    else:
        assert run.has_saved(began_at), run.said()
        if where == "anywhere":
            time.sleep(moments.uniform(0, 0.4))
        pattern = "checkpoint/.*.part" if where == "checkpoint" else ".*.part"
        while where in ("checkpoint", "model") and not list(run.out.glob(pattern)) and run.process.is_alive():
            pass
        if where in ("checkpoint", "model"):
            time.sleep(moments.uniform(0, 0.004))
    assert run.process.is_alive(), run.said()
    run.kill()
    return " ".join(path.name for path in run.out.rglob(".*.part"))


@pytest.mark.timeout(3600 if KILLS > 5 else 600)
def test_killed_at_random_moments(shard: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished(shard, whole, epochs=EPOCHS, workers=2)
    moments = seeded()
    begun, torn, resumed = Run(shard, broken, epochs=EPOCHS), [], []
    for number in range(KILLS):
        where = ["checkpoint", "anywhere", "model", "start", "checkpoint"][number % 5]
        torn.append(killed(begun, where, moments))
        resumed += [int(step) for step in re.findall(r"resumes at step (\d+)", begun.said())]
        begun = Run(shard, broken, epochs=EPOCHS, workers=number % 3)
    status, said = begun.end(within=1000)
    resumed += [int(step) for step in re.findall(r"resumes at step (\d+)", said)]
    assert status == 0, said
    print(f"{KILLS} kills, {sum(map(bool, torn))} inside a write; went on at {resumed}")
    assert any("step-" in each for each in torn), "no kill landed inside the write of a checkpoint"
    assert len(set(resumed)) > KILLS // 2
    assert_same_runs(broken, whole)
