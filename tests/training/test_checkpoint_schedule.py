"""When a run saves: steps, minutes, the end, slow work, signals; and what its writing thread raises."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coterie.errors import BadRun, UserError
from coterie.optim.schedule import Constant
from coterie.signals import SIGNALS, Interrupted, check_interrupted
from coterie.training import checkpoint_io
from coterie.training import checkpoint_schedule as checkpointing
from coterie.training.checkpoint_schedule import Checkpointer
from coterie.training.monitor import Monitor, NotFinite
from coterie.training.run_state import RunState
from coterie.types import Progress, StepResult

TOTAL = 10


class Run:
    """A checkpointer of a tiny student, and what it saves."""

    def __init__(self, folder: Path, steps: int = 0, minutes: float = 1e6, images: int = 50) -> None:
        self.student = nn.Linear(3, 2)
        self.monitor = Monitor((4,), 8, Constant(0.1), log_steps=100, write=lambda record: None)
        self.state = RunState(1, images)
        self.saved: list[int] = []
        self.also: list[dict[str, Tensor]] = []
        parts: dict[str, Any] = {"student": self.student, "monitor": self.monitor}
        self.checkpointer = Checkpointer(
            folder, parts, self.monitor, self.state, steps=steps, minutes=minutes, also=self._also
        )
        self.checkpointer.on_saved = self.saved.append
        self.folder = folder

    def _also(self, student: dict[str, Tensor]) -> Any:
        return lambda: self.also.append(student)

    def step(self, number: int, loss: float = 1.0) -> None:
        with torch.no_grad():
            self.student.weight.fill_(number)
        result = StepResult(torch.tensor(loss), torch.zeros(2, 8, 4), [], torch.arange(8))
        progress = Progress(number, 5, TOTAL)
        self.monitor.on_step_end(progress, result)
        self.checkpointer.on_step_end(progress, result)

    def on_disk(self) -> list[int]:
        self.checkpointer.settle()
        return sorted(step for step, _ in checkpoint_io.list_checkpoints(self.folder))


def test_it_saves_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=3)
    for number in range(TOTAL):
        run.step(number)
    assert run.saved == [3, 6, 9, 10]
    assert run.on_disk() == [9, 10]
    step, state, _ = checkpoint_io.load(tmp_path)
    assert state is not None
    assert (step, state["student"]["weight"][0, 0].item(), state["run"]["images"]) == (10, 9, 50)
    assert [each["weight"][0, 0].item() for each in run.also] == [2, 5, 8, 9]  # a copy: later steps do not change it


def test_it_saves_when_the_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    run = Run(tmp_path, minutes=2)
    for number, second in enumerate((60, 119, 120, 130, 239, 241)):
        now[0] = float(second)
        run.step(number)
    assert run.saved == [3, 6]


def test_it_saves_before_slow_work(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step(0)
    run.state.pending = ["probe"]
    run.step(1)
    run.state.pending = []
    run.step(2)
    assert run.saved == [2]
    run.checkpointer.settle()
    _, state, _ = checkpoint_io.load(tmp_path)
    assert state is not None
    assert state["run"]["pending"] == ["probe"]


def test_a_callback_stops_the_run_after_a_save(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step(0)
    assert not run.checkpointer.stopping
    run.checkpointer.request_stop()
    run.step(1)
    assert run.checkpointer.stopping
    assert run.on_disk() == [2]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_stops_after_the_step(tmp_path: Path, number: signal.Signals) -> None:
    run, before = Run(tmp_path), signal.getsignal(number)
    with pytest.raises(Interrupted) as raised, run.checkpointer.stopping_on_signals():
        run.step(0)
        os.kill(os.getpid(), number)
        if number == signal.SIGINT:
            os.kill(os.getpid(), number)  # as `timeout` does, and no second Ctrl-C
            time.sleep(0.4)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        run.step(1)
    assert str(raised.value) == f"stopped by {number.name} and saved after step 2: run the same command again to resume"
    assert raised.value.status == 128 + number
    assert signal.getsignal(number) == before
    assert [step for step, _ in checkpoint_io.list_checkpoints(tmp_path)] == [2]


def test_a_signal_between_two_steps_saves_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Interrupted, match="and saved after step 1: "), run.checkpointer.stopping_on_signals():
        run.step(0)
        os.kill(os.getpid(), signal.SIGTERM)
        check_interrupted()  # as the refresh of the groups does
    assert [step for step, _ in checkpoint_io.list_checkpoints(tmp_path)] == [1]


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Interrupted) as raised, run.checkpointer.stopping_on_signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        check_interrupted()
    assert str(raised.value) == "stopped by SIGUSR1 before the first step: run the same command again to start"
    assert not run.on_disk()


def test_a_checkpoint_that_is_being_written_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, go, save = Run(tmp_path, steps=1), threading.Event(), checkpoint_io.save

    def slowly(*values: Any) -> None:
        assert go.wait(60)
        save(*values)

    monkeypatch.setattr(checkpoint_io, "save", slowly)
    with pytest.raises(Interrupted, match="and saved after step 1: "), run.checkpointer.stopping_on_signals():
        run.step(0)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(0.5, go.set).start()
        run.step(1)
    assert [step for step, _ in checkpoint_io.list_checkpoints(tmp_path)] == [1]


def test_the_last_step_is_saved_even_if_a_signal_comes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.checkpointer.stopping_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        run.step(TOTAL - 1)  # nothing is left to stop
    assert run.on_disk() == [TOTAL]


def test_what_the_writing_thread_raises_is_raised_by_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, writers = Run(tmp_path, steps=1), list[threading.Thread]()

    def full(folder: Path, state: Any, step: int) -> None:
        writers.append(threading.current_thread())
        raise UserError("the disk is full")

    monkeypatch.setattr(checkpoint_io, "save", full)
    run.step(0)
    with pytest.raises(UserError, match="the disk is full"):
        run.checkpointer.settle()
    assert writers[0] is not threading.main_thread()
    run.checkpointer.settle()  # it is raised once
    run.step(1)
    with pytest.raises(UserError, match="the disk is full"):
        run.step(2)  # a save waits for the one before
    with pytest.raises(ZeroDivisionError), run.checkpointer.settling():
        raise ZeroDivisionError
    assert run.checkpointer._writer is None


def test_nothing_is_saved_of_a_run_that_is_not_finite(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=1)
    with pytest.raises(NotFinite, match="loss nan"):
        run.step(0, loss=float("nan"))
    run = Run(tmp_path, steps=1)
    run.student.bias.data[0] = float("inf")
    with pytest.raises(NotFinite, match="weights are no longer finite"):
        run.step(0)
    assert not run.on_disk()


def test_resuming_restores_every_part(tmp_path: Path) -> None:
    first, second, third = Run(tmp_path, steps=1), Run(tmp_path), Run(tmp_path, images=51)
    first.state.bad_images[7] = "empty"
    first.step(0)
    first.step(1)
    first.checkpointer.settle()
    (tmp_path / ".step-000000009.pt.4194305.part").write_bytes(b"half")
    assert second.checkpointer.resume() == (2, [])
    assert not list(tmp_path.glob(".*.part"))
    assert torch.equal(second.student.weight, first.student.weight)
    assert second.state == first.state
    with pytest.raises(BadRun, match="was started with 50 images, but now there are 51"):
        third.checkpointer.resume()


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert Run(tmp_path).checkpointer.resume() == (0, [])


def test_a_damaged_checkpoint_is_set_aside_and_one_that_does_not_fit_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=1)
    run.step(0)
    run.step(1)
    run.checkpointer.settle()
    newest = checkpoint_io.list_checkpoints(tmp_path)[0][1]
    newest.write_bytes(newest.read_bytes()[:-10])
    step, remarks = Run(tmp_path).checkpointer.resume()
    assert step == 1
    assert "is damaged (its checksum differs) and is skipped" in remarks[0]
    other = Run(tmp_path)
    other.checkpointer.parts["student"] = nn.Linear(4, 2)
    with pytest.raises(BadRun, match="does not fit"):
        other.checkpointer.resume()
