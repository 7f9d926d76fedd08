"""kill -9 at any moment and the same command again: bit for bit the uninterrupted run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.training.checkpoint_io import load
from tests.faults.running import assert_same_runs, newest_step

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


def command(images: Path, out: Path, workers: int) -> list[str]:
    settings = [part for setting in (*SETTINGS, f"run.workers={workers}") for part in ("--set", setting)]
    sizes = ["--epochs", "15", "--batch-size", "16"]
    return [sys.executable, "-m", "coterie", "pretrain", "swav", str(images), "--out", str(out), *sizes, *settings]


def killed(images: Path, out: Path, workers: int, inside_the_write: bool, wait: float) -> tuple[str, bool]:
    """Start the run and kill it after a new checkpoint; returns its output, and whether a write was interrupted."""
    before = newest_step(out)
    process = subprocess.Popen(command(images, out, workers), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while newest_step(out) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if inside_the_write:
        while not list((out / "checkpoint").glob(".*.part")) and process.poll() is None:
            pass
    else:
        time.sleep(wait)
    assert process.poll() is None, "the run ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    output = process.communicate()[1]
    assert newest_step(out) > before
    return output, bool(list((out / "checkpoint").glob(".*.part")))


@pytest.mark.slow
def test_killed_at_random_moments(images: Path, tmp_path: Path) -> None:
    uninterrupted, broken = tmp_path / "uninterrupted", tmp_path / "broken"
    subprocess.run(command(images, uninterrupted, workers=2), check=True, capture_output=True)
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
    last = subprocess.run(command(images, broken, workers=1), check=True, capture_output=True, text=True)
    resumed_at += [int(step) for step in re.findall(r"resumes at step (\d+)", last.stderr)]
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
    words = command(images, out, workers=2)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not newest_step(out) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)  # like Ctrl-C in a terminal or a scheduler: the loader workers get it too
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    stopped = re.search(rf"coterie: stopped by {number.name} and saved after step (\d+)", output)
    assert stopped
    assert newest_step(out) == int(stopped[1]) > 0


def test_other_settings_are_refused_and_nothing_is_lost(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    subprocess.run(command(images, out, workers=1), check=True, capture_output=True)
    before = (out / "model.safetensors").read_bytes()
    other = subprocess.run([*command(images, out, 1), "--seed", "5"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "holds a run with other settings (seed: 0 -> 5)" in other.stderr
    again = subprocess.run(command(images, out, 1), capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert f"is finished after {STEPS} steps" in again.stderr
    assert (out / "model.safetensors").read_bytes() == before
