"""kill -9 at any moment and the same command again: bit for bit the uninterrupted run."""

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.training.checkpoint_io import load
from tests.faults.running import Command, assert_same_runs, newest_step

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[20] "
    "groups.frozen_steps=12 memory.length=32 memory.start_epoch=1 run.threads=1 run.log_steps=3 run.save_steps=4"
).split()
STEPS = 10 * 15


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 165, 16))
    return path


def started(images: Path, out: Path, workers: int, *more: str) -> Command:
    """The command in a process of its own."""
    settings = [part for setting in (*SETTINGS, f"run.workers={workers}") for part in ("--set", setting)]
    words = [
        "pretrain",
        "swav",
        str(images),
        "--out",
        str(out),
        "--epochs",
        "15",
        "--batch-size",
        "16",
        *settings,
        *more,
    ]
    return Command(words, out.with_suffix(".txt"))


def ended(*given: Any) -> str:
    """Its output, when it has done what it should."""
    status, output = started(*given).end()
    assert status == 0, output
    return output


def killed(images: Path, out: Path, workers: int, inside_the_write: bool, wait: float) -> tuple[str, bool]:
    """Start the run and kill it after a new checkpoint; returns its output, and whether a write was interrupted."""
    before = newest_step(out)
    run = started(images, out, workers)
    deadline = time.monotonic() + 120
    while newest_step(out) == before and run.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    if inside_the_write:
        while not list((out / "checkpoint").glob(".*.part")) and run.process.is_alive():
            pass
    else:
        time.sleep(wait)
    assert run.process.is_alive(), f"the run ended before it was killed: {run.output()}"
    assert run.process.pid
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.join()
    assert newest_step(out) > before
    return run.output(), bool(list((out / "checkpoint").glob(".*.part")))


@pytest.mark.slow
def test_killed_at_random_moments(images: Path, tmp_path: Path) -> None:
    uninterrupted, broken = tmp_path / "uninterrupted", tmp_path / "broken"
    ended(images, uninterrupted, 2)
    seed = int.from_bytes(os.urandom(4))
    print(f"seed of the moments: {seed}")
    moments = random.Random(seed)
    resumed_at, torn = [], []
    for number, inside in enumerate([False, True, False, True, True]):
        output, cut = killed(
            images, broken, workers=1 + number % 2, inside_the_write=inside, wait=moments.uniform(0, 0.2)
        )
        torn.append(cut)
        resumed_at += [int(step) for step in re.findall(r"resumes at step (\d+)", output)]
    resumed_at += [int(step) for step in re.findall(r"resumes at step (\d+)", ended(images, broken, 1))]
    assert len(resumed_at) == 5
    assert any(torn), "no kill landed inside a write"
    assert max(resumed_at) > 12, "no resume with the queue in use"
    assert min(resumed_at) > 0
    assert any(step % 10 for step in resumed_at), "no resume in the middle of an epoch"
    step, state, _ = load(uninterrupted / "checkpoint")
    assert step == STEPS
    assert state["objective"]["memory._extra_state"]["pushed"] > 32  # the queue was full, so it was used
    assert_same_runs(broken, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_on_a_signal_it_saves_and_exits(images: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    run = started(images, out, 2)
    while not newest_step(out) and run.process.is_alive():
        time.sleep(0.01)
    run.signal_group(number)  # like Ctrl-C in a terminal or a scheduler: the loader workers get it too
    status, output = run.end()
    assert status == 128 + number, output
    stopped = re.search(rf"coterie: stopped by {number.name} and saved after step (\d+)", output)
    assert stopped
    assert newest_step(out) == int(stopped[1]) > 0


def test_other_settings_are_refused_and_nothing_is_lost(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended(images, out, 1)
    before = (out / "model.safetensors").read_bytes()
    status, output = started(images, out, 1, "--seed", "5").end()
    assert status == 2
    assert "holds a run with other settings (seed: 0 -> 5)" in output
    assert f"is finished after {STEPS} steps" in ended(images, out, 1)
    assert (out / "model.safetensors").read_bytes() == before
