"""Callbacks of a run: their order, what they may do, and what follows an error in one of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.logger import NullLogger
from coterie.training import checkpoint_io
from coterie.training.callback import Callback, RunContext
from coterie.training.callback_runner import CallbackError
from coterie.types import Progress
from tests.faults.running import assert_same_runs
from tests.forkserver import start_processes

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[8] memory=none "
    "run.threads=1 run.workers=0 run.log_steps=2 run.save_minutes=1000"
).split()
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 16 * STEPS_PER_EPOCH, 16))
    return path


def train(images: Path, out: Path, *callbacks: Callback, snapshots: int = 0, **more: Any) -> Path:
    settings = [*SETTINGS, f"run.snapshots={snapshots}"]
    return coterie.pretrain(
        "swav", images, out=out, epochs=2, batch_size=16, settings=settings, callbacks=callbacks, **more
    )


class Recorder(Callback):
    """Writes down what is called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, run: RunContext) -> None:
        self.calls.append(("start", run.start_step, run.total_steps))
        self.folder = run.folder

    def on_step_end(self, progress: Progress, result: Any) -> None:
        self.calls.append(("step", progress.step))

    def on_epoch_end(self, progress: Progress) -> None:
        self.calls.append(("epoch", progress.epoch))

    def on_metrics(self, record: dict[str, Any]) -> None:
        self.calls.append(("metrics", record["step"]))

    def on_checkpoint(self, steps: int) -> None:
        self.calls.append(("checkpoint", steps))

    def is_due(self, progress: Progress) -> bool:
        return progress.step == 3

    def on_due(self, student: torch.nn.Module, progress: Progress) -> None:
        step, state, _ = checkpoint_io.load(self.folder / "checkpoint")
        assert state is not None
        self.calls.append(("due", progress.step, student.training, step, state["run"]["pending"]))

    def on_end(self, student: torch.nn.Module) -> None:
        self.calls.append("end")


def test_the_order_is_the_documented_one(images: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(images, tmp_path / "run", recorder)
    assert recorder.calls == [
        ("start", 0, 6),
        ("step", 0),
        ("metrics", 1),
        ("step", 1),
        ("step", 2),
        ("epoch", 0),
        ("metrics", 3),
        ("step", 3),
        ("checkpoint", 4),
        ("due", 3, False, 4, ["Recorder"]),
        ("step", 4),
        ("metrics", 5),
        ("step", 5),
        ("epoch", 1),
        ("checkpoint", 6),
        "end",
    ]


def test_a_callback_changes_nothing_that_is_learned(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "with", Recorder())
    train(images, tmp_path / "without")
    one, other = (coterie.load_backbone(tmp_path / name).state_dict() for name in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Failing(Callback):
    """Raises in one of its methods, at one step."""

    def __init__(self, method: str, step: int = 1, on_error: str = "stop") -> None:
        self.method, self.step, self.on_error = method, step, on_error  # type: ignore[assignment]

    def _fail(self, method: str, step: int) -> None:
        if method == self.method and step == self.step:
            raise ZeroDivisionError("by me")

    def on_step_end(self, progress: Progress, result: Any) -> None:
        self._fail("on_step_end", progress.step)

    def is_due(self, progress: Progress) -> bool:
        return self.method == "on_due" and progress.step == self.step

    def on_due(self, student: torch.nn.Module, progress: Progress) -> None:
        self._fail("on_due", progress.step)

    def on_end(self, student: torch.nn.Module) -> None:
        self._fail("on_end", self.step)


@pytest.mark.parametrize("method", ["on_step_end", "on_due", "on_end"])
def test_an_error_stops_the_run_after_it_has_saved(images: Path, tmp_path: Path, method: str) -> None:
    with pytest.raises(CallbackError, match=r"the callback Failing failed \(ZeroDivisionError: by me\)"):
        train(images, tmp_path / "run", Failing(method))
    step, *_ = checkpoint_io.load(tmp_path / "run" / "checkpoint")
    assert step == (6 if method == "on_end" else 2)
    train(images, tmp_path / "run")
    train(images, tmp_path / "whole")
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


class Hearing(NullLogger):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize("method", ["on_step_end", "on_due", "on_end"])
def test_an_error_is_a_warning_where_the_callback_says_so(images: Path, tmp_path: Path, method: str) -> None:
    logger = Hearing()
    train(images, tmp_path / "run", Failing(method, on_error="continue"), logger=logger)
    (text,) = logger.warnings
    assert text.startswith("the callback Failing failed (ZeroDivisionError: by me)")
    assert checkpoint_io.load(tmp_path / "run" / "checkpoint")[0] == 6


class Ending(Callback):
    """Logs a line and ends the run, from cheap or from slow work."""

    def __init__(self, slow: bool) -> None:
        self.slow = slow

    def on_start(self, run: RunContext) -> None:
        self.run = run

    def on_step_end(self, progress: Progress, result: Any) -> None:
        if progress.step == 2 and not self.slow:
            self._end()

    def is_due(self, progress: Progress) -> bool:
        return self.slow and progress.step == 2

    def on_due(self, student: torch.nn.Module, progress: Progress) -> None:
        self._end()

    def _end(self) -> None:
        self.run.log({"mine": 7})
        self.run.end("good enough")


@pytest.mark.parametrize("slow", [False, True])
def test_a_callback_ends_the_run_and_it_stays_ended(images: Path, tmp_path: Path, slow: bool) -> None:
    for _ in range(2):
        train(images, tmp_path / "run", Ending(slow))
        records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert records[-1] == {"step": 2, "epoch": 0, "mine": 7}
        assert checkpoint_io.load(tmp_path / "run" / "checkpoint")[0] == 3
    train(images, tmp_path / "run")  # without it, the run continues
    assert checkpoint_io.load(tmp_path / "run" / "checkpoint")[0] == 6


def test_two_callbacks_of_one_name_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two callbacks are called Recorder"):
        train(images, tmp_path / "run", Recorder(), Recorder())


@pytest.mark.parametrize("method", ["on_step_end", "on_due"])
def test_two_processes_agree_on_an_error_and_none_hangs(images: Path, tmp_path: Path, method: str) -> None:
    start_processes(_work, (str(images), str(tmp_path), method), nprocs=2)
    said = [(tmp_path / f"{number}.txt").read_text() for number in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("the callback Failing failed (ZeroDivisionError: by me)")
    steps, *_ = checkpoint_io.load(tmp_path / "run" / "checkpoint")
    assert steps == (2 if method == "on_due" else 3)  # of a cheap method the others hear one step later


def _work(number: int, images: str, folder: str, method: str) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getppid() % 20_000)}
    torch.set_num_threads(1)
    try:
        train(Path(images), Path(folder) / "run", Failing(method))
    except UserError as error:
        (Path(folder) / f"{number}.txt").write_text(str(error))
