"""``coterie pretrain`` on tiny images, in processes that tests disturb, and small file systems that fill up."""

import atexit
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

import coterie
from coterie.data.sources.builtin_photos import photo_patches
from coterie.training.checkpoint_io import list_checkpoints, load
from coterie.types import Progress, StepResult
from tests.forkserver import SERVER
from tests.small_report import FEW

IMAGES = 165
STEPS_PER_EPOCH = IMAGES // 16
SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[20] "
    "groups.frozen_steps=12 memory.length=32 memory.start_epoch=1 run.threads=1 run.log_steps=3 run.save_steps=4 "
    "run.snapshots=2"
).split()


class FailsAfter(coterie.Callback):
    """Fails after a step, so that the run is saved and stops."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        if progress.step == self.step:
            raise ValueError("as told")


class Command:
    """``coterie`` in a process of its own, which calls ``before`` first; it leads a process group, as at a terminal."""

    def __init__(self, words: list[str], output: Path, before: Callable[[], None] | None = None) -> None:
        self._output_file = output
        self.process = SERVER.Process(target=_command, args=(words, output, before))
        self.process.start()

    def children(self) -> list[int]:
        """Process IDs of its children, such as the loader's workers."""
        return [
            int(each) for each in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and its children, as terminals and schedulers do."""
        assert self.process.pid
        os.killpg(self.process.pid, number)

    def group_is_gone(self, within: float = 120) -> bool:
        """Whether no process of the group is left, some time after the end."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                self.signal_group(0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False

    def end(self, within: float = 120) -> tuple[int | None, str]:
        """Wait for the end; returns exit status and output."""
        self.process.join(within)
        hangs = self.process.is_alive()
        for number in [*self.children(), self.process.pid or 0] if hangs else ():
            os.kill(number, signal.SIGKILL)
        assert not hangs, f"it did not end within {within} s; its output: {self.output()}"
        return self.process.exitcode, self.output()

    def output(self) -> str:
        """Everything printed so far, to standard output and standard error."""
        return self._output_file.read_text() if self._output_file.exists() else ""


class Run(Command):
    """``coterie pretrain`` in a process of its own, which calls ``before`` first."""

    def __init__(
        self,
        images: Path | str,
        out: Path | str,
        *settings: str,
        epochs: int = 4,
        workers: int = 1,
        before: Callable[[], None] | None = None,
        method: str = "swav",
        common: Sequence[str] = SETTINGS,
    ) -> None:
        sizes = ["--epochs", str(epochs), "--batch-size", "16"]
        options = [part for setting in (*common, f"run.workers={workers}", *settings) for part in ("--set", setting)]
        self.out = Path(out)
        words = ["pretrain", method, str(images), "--out", str(out), *sizes, *options]
        super().__init__(words, Path(f"{images}.{time.monotonic_ns()}.txt"), before)

    def saved_step(self) -> int:
        """The step of the newest checkpoint, 0 before there is one."""
        return newest_step(self.out)

    def has_saved(self, more_than: int = 0) -> bool:
        """Wait for a checkpoint of a later step; False if the run ends before."""
        while self.saved_step() <= more_than and self.process.is_alive():
            time.sleep(0.002)
        return self.process.is_alive()

    def workers(self) -> list[int]:
        """Process IDs of the loader's workers."""
        return self.children()

    def kill(self) -> None:
        """Send SIGKILL to the run; its workers exit by themselves."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def _command(words: list[str], output: Path, before: Callable[[], None] | None) -> None:
    os.setpgrp()
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["coterie", *words]
    if before is not None:
        before()
    from coterie.cli.main import main
    from coterie.reporting import run_report

    run_report.FEWEST_SAMPLED = FEW
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # as at the end of a program; multiprocessing does not do it


def finished(images: Path | str, out: Path | str, *settings: str, epochs: int = 4, workers: int = 1) -> str:
    """Run to the end; returns the output."""
    status, output = Run(images, out, *settings, epochs=epochs, workers=workers).end(within=30 * epochs + 100)
    assert status == 0, output
    return output


def error_line(output: str) -> str:
    """The last line of the output, which is the one error message; there is no traceback."""
    assert "Traceback" not in output, output
    last = output.replace("\0", "").strip().splitlines()[-1].strip()
    assert last.startswith("coterie: "), output
    return last


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    checkpoints = list_checkpoints(out / "checkpoint")
    return checkpoints[0][0] if checkpoints else 0


def assert_same_runs(one: Path, other: Path) -> None:
    """Weights, snapshots and everything in the checkpoint are equal bit for bit, and the log apart from its timings."""
    assert log_lines(one) == log_lines(other)
    (step, ours, _), (same_step, theirs, _) = load(one / "checkpoint"), load(other / "checkpoint")
    assert step == same_step > 0
    assert_same(ours, theirs)
    names = sorted(str(path.relative_to(other)) for path in other.rglob("*.safetensors"))
    assert names == sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    for name in names:
        assert_same(*(safetensors.torch.load_file(run / name) for run in (one, other)), name)
    assert not list(one.rglob("*.part")), "an unfinished file is left"


def log_lines(out: Path) -> list[dict]:
    """The log of a run without its timings."""
    timed = {"images_per_second", "data_wait"}
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


def assert_same(one: object, other: object, path: str = "") -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{path}.{number}")
    else:
        assert one == other, path


def write_shard(path: Path, images: range = range(IMAGES)) -> Path:
    """Write photographs of 16 x 16 pixels as a tar shard of PNG files."""
    patches = photo_patches("train", IMAGES, 16).images
    with tarfile.open(path, "w") as tar:
        for number in images:
            buffer = io.BytesIO()
            Image.fromarray(patches[number, :, :, 0]).convert("RGB").save(buffer, "PNG")
            member = tarfile.TarInfo(f"{number:04d}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
    return path


def seeded() -> random.Random:
    """A source of random moments, whose seed is printed: $COTERIE_FAULTS_SEED, or a new one each time."""
    seed = int(os.environ.get("COTERIE_FAULTS_SEED") or int.from_bytes(os.urandom(4)))
    print(f"COTERIE_FAULTS_SEED={seed}")
    return random.Random(seed)


@contextmanager
def small_file_system(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs for the duration of the context; skips the test where a new user namespace may not mount one.

    It is mounted in a mount namespace of its own and reached through /proc, so nothing outside sees it and nothing is left.
    """
    folder.mkdir()
    script = f"mount -t tmpfs -o {options} none '{folder}' && echo mounted && exec sleep 600"
    holder = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert holder.stdout
        if (answer := holder.stdout.readline().strip()) != "mounted":
            pytest.skip(f"no small file system can be mounted here: {answer}")
        inside = Path(f"/proc/{holder.pid}/root{folder}")
        if not os.access(inside, os.R_OK) or not re.search(
            rf" {re.escape(str(folder))} ", Path(f"/proc/{holder.pid}/mounts").read_text()
        ):
            pytest.skip("the mount cannot be reached through /proc here")
        yield inside
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
