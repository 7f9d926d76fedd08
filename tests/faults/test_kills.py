"""kill -9 at random moments and the same command again: bit for bit the undisturbed run."""

import os
import random
import re
import time
from pathlib import Path

import pytest

from tests.faults.running import Run, assert_same_runs, finished, seeded

KILLS = 50 if os.environ.get("COTERIE_FAULTS") == "all" else 5
EPOCHS = KILLS + 3  # a kill loses the steps since the last checkpoint, and leaves about eight done


def killed(run: Run, where: str, moments: random.Random) -> str:
    """Kill the run after a new checkpoint, at the given place; returns the names of files that were being written."""
    started_at = run.saved_step()
    if where == "start":  # while it imports, loads the checkpoint, truncates the log
        time.sleep(moments.uniform(0, 2))
    else:
        assert run.has_saved(started_at), run.output()
        if where == "anywhere":
            time.sleep(moments.uniform(0, 0.4))
        pattern = "checkpoint/.*.part" if where == "checkpoint" else ".*.part"
        while where in ("checkpoint", "model") and not list(run.out.glob(pattern)) and run.process.is_alive():
            pass
        if where in ("checkpoint", "model"):
            time.sleep(moments.uniform(0, 0.004))
    assert run.process.is_alive(), run.output()
    run.kill()
    return " ".join(path.name for path in run.out.rglob(".*.part"))


@pytest.mark.timeout(3600 if KILLS > 5 else 600)
def test_killed_at_random_moments(shard: Path, tmp_path: Path) -> None:
    undisturbed, broken = tmp_path / "undisturbed", tmp_path / "broken"
    finished(shard, undisturbed, epochs=EPOCHS, workers=2)
    moments = seeded()
    run, torn, resumed = Run(shard, broken, epochs=EPOCHS), [], []
    for number in range(KILLS):
        where = ["checkpoint", "anywhere", "model", "start", "checkpoint"][number % 5]
        torn.append(killed(run, where, moments))
        resumed += [int(step) for step in re.findall(r"resumes at step (\d+)", run.output())]
        run = Run(shard, broken, epochs=EPOCHS, workers=number % 3)
    status, output = run.end(within=1000)
    resumed += [int(step) for step in re.findall(r"resumes at step (\d+)", output)]
    assert status == 0, output
    print(f"{KILLS} kills, {sum(map(bool, torn))} inside a write; went on at {resumed}")
    assert any("step-" in each for each in torn), "no kill landed inside the write of a checkpoint"
    assert len(set(resumed)) > KILLS // 2
    assert_same_runs(broken, undisturbed)
