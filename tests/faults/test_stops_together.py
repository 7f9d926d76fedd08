"""Signals while two processes are at work under torchrun: all leave with the signal's status, and nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from tests.faults.running import assert_same_runs, newest_step
from tests.faults.test_stops import ALL, COMMON, EPOCHS, PAUSES, SHORT, STUCK

HANDLED = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
CASES = [
    # phase, process that pauses there, seconds, signal, who gets it, step that is saved
    ("k-means", 0, SHORT, signal.SIGUSR1, "all", 3),  # the other one waits for its centers
    ("figures", 0, STUCK, signal.SIGTERM, "torchrun", 3),  # the other one waits until they are done
    *((("filling", 1, SHORT, signal.SIGINT, "torchrun", 0),) if ALL else ()),
    *((("labels", 1, SHORT, signal.SIGTERM, "1", 3),) if ALL else ()),
    *((("probe", 0, STUCK, signal.SIGUSR1, "torchrun", 3),) if ALL else ()),
    *((("report", 0, STUCK, signal.SIGTERM, "all", 6),) if ALL else ()),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 48, 16))
    return path


def started(images: Path, out: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """The command on two processes."""
    options = [
        *COMMON,
        "run.log_steps=4",
        "run.workers=1",
        'probe.probes=["knn","clusters"]',
        f'probe.train=["{images}"]',
    ]
    words = [
        "pretrain",
        "deepcluster_v2",
        str(images),
        "--out",
        str(out),
        "--epochs",
        str(EPOCHS),
        "--batch-size",
        "16",
    ]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", HANDLED]
    return subprocess.Popen(
        [*launch, "-m", *command, *words, *(part for each in options for part in ("--set", each))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, each of which leads a group; by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    of = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    return [int(pid) for pid in sorted(children, key=lambda pid: next(e for e in of[pid] if e.startswith(b"RANK=")))]


def send(process: subprocess.Popen[str], number: signal.Signals, to: str) -> None:
    if to == "torchrun":
        os.kill(process.pid, number)
        return
    for each in [process.pid, *ranks(process)] if to == "all" else [ranks(process)[int(to)]]:
        os.killpg(each, number)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    process = started(images, out, ["coterie"])
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "rank", "seconds", "number", "to", "step"), CASES)
def test_all_leave_and_nothing_is_lost(
    images: Path,
    whole: Path,
    tmp_path: Path,
    phase: str,
    rank: int,
    seconds: float,
    number: signal.Signals,
    to: str,
    step: int,
) -> None:
    (path, call, *_), out, mark = PAUSES[phase], tmp_path / "run", tmp_path / "paused"
    paused = ["tests.faults.paused_command", str(tmp_path), str(rank), path, str(call), str(seconds)]
    process = started(images, out, paused)
    deadline = time.monotonic() + 240
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert mark.exists(), process.communicate()[1]
    send(process, number, to)
    _, said = process.communicate(timeout=120)
    lines = re.findall(r"^coterie(?: \(process 1\))?: (.*)$", said, re.MULTILINE)
    ends = f"saved after step {step}: run the same" if step else "before the first step: run the same"
    one = {number, signal.SIGTERM} if to == "1" else {number}  # torchrun ends the other one
    assert len(lines) == 2, said
    assert all(any(each.startswith(f"stopped by {name.name} ") for name in one) and ends in each for each in lines), (
        said
    )
    assert [int((tmp_path / f"{each}.status").read_text()) for each in range(2)] == [128 + number] * 2, said
    assert newest_step(out) == step
    again = started(images, out, ["coterie"])
    _, said = again.communicate(timeout=400)
    assert again.returncode == 0, said
    assert_same_runs(out, whole)
