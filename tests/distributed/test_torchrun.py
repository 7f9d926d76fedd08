"""The command under torchrun: real processes, real signals; a killed worker brings the group back to its last checkpoint."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.training.checkpoint_io import list_checkpoints
from tests.faults.running import log_lines

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[20] "
    "memory.length=32 memory.start_epoch=1 run.threads=1 run.log_steps=4 run.save_steps=4 run.snapshots=1 run.workers=1"
).split()
EPOCHS, STEPS_PER_EPOCH = 6, 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 165, 16))
    return path


def started(images: Path, out: Path, processes: int, *torchrun: str, epochs: int = EPOCHS) -> subprocess.Popen[str]:
    """The command on so many processes; 0: without torchrun."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = ["pretrain", "swav", str(images), "--out", str(out), "--epochs", str(epochs), "--batch-size", "16"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *torchrun]
    start = [*launch, "-m", "coterie"] if processes else [sys.executable, "-m", "coterie"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    how["start_new_session"] = True  # a process group of its own, as a terminal gives to each command
    return subprocess.Popen([*start, *command, *settings], **how)


def until_saved(out: Path, process: subprocess.Popen[str], steps: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        checkpoints = list_checkpoints(out / "checkpoint")
        if checkpoints and checkpoints[0][0] >= steps:
            return
        time.sleep(0.01)
    raise AssertionError(f"not so far: {process.communicate()[1]}")


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, in the order of their ranks."""
    list_checkpoints = []
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks = [int(each[5:]) for each in environment if each.startswith(b"RANK=")]
        list_checkpoints += [(rank, int(pid)) for rank in ranks]
    return [pid for _, pid in sorted(list_checkpoints)]


def left(out: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The weights, and the lines of the log but for speeds."""
    return safetensors.torch.load_file(out / "model.safetensors"), log_lines(out)


@pytest.mark.slow
def test_a_killed_worker_brings_the_group_back_and_nothing_is_lost(images: Path, tmp_path: Path) -> None:
    whole = started(images, tmp_path / "whole", 2)
    spoken, said = whole.communicate(timeout=400)
    assert whole.returncode == 0, said
    assert spoken.count("the backbone is in") == 1, "one process speaks"
    out = tmp_path / "killed"
    process = started(images, out, 2, "--max-restarts=2")
    until_saved(out, process, 24)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "resumes at step" in said
    (ours, log), (theirs, other_log) = left(out), left(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert log == other_log


def asked_to_stop(process: subprocess.Popen[str], how: str) -> None:
    """SIGTERM to each worker, as some schedulers send it; or Ctrl-C, to all that the terminal has started."""
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    for pid in children(process) if how == "TERM" else ():
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("how", ["TERM", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_asked_to_stop_all_save_after_the_same_step_and_one_process_goes_on(
    images: Path, tmp_path: Path, how: str
) -> None:
    process = started(images, tmp_path, 2)
    until_saved(tmp_path, process, 8)
    asked_to_stop(process, how)
    _, said = process.communicate(timeout=100)  # torchrun kills after 30 seconds: then not all have saved
    saved = re.findall(r"stopped by SIG[A-Z0-9]+ and saved after step (\d+)", said)
    assert len(saved) == 2, said
    assert saved[0] == saved[1]
    steps = list_checkpoints(tmp_path / "checkpoint")[0][0]
    assert 8 <= steps == int(saved[0]) < EPOCHS * STEPS_PER_EPOCH
    if how == "Ctrl-C":  # torchrun, itself asked to stop, does not tell how its workers ended
        return
    first, *others = map(int, reversed(re.findall(r"exitcode +: (-?\d+)", said)))  # the root cause comes last
    assert first == 143, said
    assert set(others) <= {143, -signal.SIGTERM}, said  # torchrun ends those who are left when one has gone
    alone = started(images, tmp_path, 0)
    _, said = alone.communicate(timeout=400)
    assert alone.returncode == 0, said
    assert f"resumes at step {steps}" in said
    assert left(tmp_path)[1][-1]["step"] == EPOCHS * STEPS_PER_EPOCH - 1


@pytest.mark.slow
def test_two_processes_extend_a_run_as_one_does(images: Path, tmp_path: Path) -> None:
    for out, processes in ((tmp_path / "two", 2), (tmp_path / "one", 0)):
        for epochs in (1, 2):
            process = started(images, out, processes, epochs=epochs)
            _, said = process.communicate(timeout=400)
            assert process.returncode == 0, said
        assert said.count("extended from 10 to 20 steps (2 epochs)") == 1, said
    log, other_log = left(tmp_path / "two")[1], left(tmp_path / "one")[1]
    assert [line["extended"] for line in log if "extended" in line] == [[10, 20]]
    for line, other in zip(log, other_log, strict=True):
        assert (line["step"], line.get("lr")) == (other["step"], other.get("lr"))
        # Float32, summed in another order; with uniformity the loss passes through 0. test_regularizers.py has 1e-9.
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=0.25)


@pytest.mark.parametrize("ask", [coterie.plan, coterie.profile])
def test_what_is_asked_on_one_process_is_refused_before_anything_is_read(
    ask: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):  # as torchrun sets them
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="start it without torchrun"):
        ask("swav", "no such folder")
