"""A run that another process makes slow says so once; a pause, a snapshot or a slow disk is no other process."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.training.profiling import shared_cores
from coterie.training.profiling.cores import CoreTimes, CoreUse, core_times, core_use
from coterie.training.profiling.shared_cores import SharedCoresCallback, slow_line
from coterie.types import Progress, StepResult
from tests.training.profiling.test_estimate import Messages

RESULT = StepResult(torch.zeros(()), torch.zeros(1, 2, 3), [], torch.zeros(2, dtype=torch.int64))
ALONE = CoreUse(own=1.9, others=0.0, cores=2)


@pytest.mark.parametrize(
    ("now", "use", "said"),
    [
        (2.5, CoreUse(1.0, 1.0, 2), True),
        (2.5, CoreUse(1.4, 0.5, 2), True),
        (1.9, CoreUse(1.0, 1.0, 2), False),  # not twice as long
        (2.5, CoreUse(1.9, 0.1, 2), False),  # nobody else
        (2.5, CoreUse(0.2, 0.6, 2), False),  # half of the cores idle: it waits for something else
        (9.0, CoreUse(0.9, 0.9, 4), False),
    ],
)
def test_slow_because_of_others(now: float, use: CoreUse, said: bool) -> None:
    assert (slow_line(1.0, ALONE, now, use, 2) is not None) == said


def test_the_line_says_what_to_set() -> None:
    line = slow_line(0.3, ALONE, 1.2, CoreUse(1.0, 1.02, 2), 2)
    assert line is not None
    assert line.startswith(
        "a step takes 1.2 s, not 0.3 s as at first, because other processes keep 1.0 of the 2 cores busy"
    )
    assert line.endswith("--set run.threads=1")
    alone = slow_line(0.3, ALONE, 1.2, CoreUse(1.0, 1.0, 2), 1)
    assert alone is not None
    assert "run.threads" not in alone
    assert slow_line(1.0, CoreUse(1.0, 0.9, 2), 9.0, CoreUse(1.0, 1.0, 2), 2) is None  # as it was at first


class Clock:
    """Steps whose times, and those of the cores, are what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.own = self.others = 0.0
        monkeypatch.setattr(shared_cores.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(shared_cores, "core_times", lambda: CoreTimes(self.now, self.own + self.others, self.own))
        monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
        self.callback, self.messages = SharedCoresCallback(), Messages()
        self.callback._logger = self.messages  # as on_start does

    def steps(self, number: int, seconds: float, others: float, own: float = 1.0) -> list[str]:
        for step in range(number):
            self.now += seconds
            self.own += own * seconds
            self.others += others * seconds
            self.callback.on_step_end(Progress(step, 9, 99), RESULT)
        return self.messages.texts


def test_a_run_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    clock = Clock(monkeypatch)
    assert not clock.steps(4, 60.0, 1.0)  # the warm-up
    assert not clock.steps(100, 1.0, 0.0, 1.9)
    assert not clock.steps(1, 300.0, 2.0, 0.0)  # suspended, or a snapshot, while others work
    assert not clock.steps(50, 1.0, 0.0, 1.9)
    assert not clock.steps(50, 3.0, 0.0, 0.3)  # a slow disk
    assert not clock.steps(3, 3.0, 1.0)
    (line,) = clock.steps(60, 3.0, 1.0)
    assert line.startswith("a step takes 3 s, not 1 s as at first")
    assert len(clock.steps(200, 9.0, 1.0)) == 1


def test_nothing_is_said_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(shared_cores, "core_times", lambda: None)
    clock.callback = SharedCoresCallback()
    clock.callback._logger = clock.messages
    assert not clock.steps(40, 1.0, 0.0) + clock.steps(40, 9.0, 1.0)


def test_a_busy_process_is_seen_and_our_own_work_is_not_taken_for_it() -> None:
    """Whatever else the machine does: others have used at least what the other process has."""

    def used(process: int) -> float:
        columns = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(columns[11]) + int(columns[12])) / 100

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            before, its, mine = core_times(), used(other.pid), time.process_time()
            while time.process_time() - mine < 0.3 or used(other.pid) - its < 0.3:
                pass
            spent, after = used(other.pid) - its, core_times()
        finally:
            other.kill()
    assert before is not None
    assert after is not None
    use: Any = core_use(before, after)
    seconds = after.clock - before.clock
    assert use.others * seconds > spent - 0.1
    assert use.own * seconds > 0.25
    assert use.own + use.others <= use.cores * 1.2 + 0.1
