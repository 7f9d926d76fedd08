import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from coterie.data.loading import worker_watchdog
from coterie.data.loading.workers import worker_batches
from coterie.errors import UserError


class Echo(Dataset[Any]):
    """Answers a number with itself, and 12 with what ``act`` does."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __getitem__(self, number: int) -> Any:
        return self.act() if number == 12 else torch.tensor(number)


def numbers(act: Any, workers: int = 2, count: int = 20) -> Iterator[Any]:
    return worker_batches(Echo(act), iter(range(count)), workers, torch.device("cpu"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Like a read from storage that does not respond: only SIGKILL ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
    time.sleep(1000)


def unsendable() -> Any:
    return lambda: None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    assert [int(each) for each in numbers(lambda: torch.tensor(12), workers)] == list(range(20))


@pytest.mark.parametrize("act", [die, unsendable])
def test_a_dead_worker_is_reported_where_its_result_is_awaited(act: Any) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    batches = numbers(act)
    first = [int(next(batches)) for _ in range(9)]  # each of the two workers is two numbers ahead by now
    time.sleep(0.5)  # one dies meanwhile; nothing is raised here
    with pytest.raises(UserError, match="a loader worker was killed, most often for lack of memory"):
        for _ in batches:
            pass
    assert first == list(range(9))
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_workers_that_hang_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(children())
    batches = numbers(hang)
    next(batches)
    monkeypatch.setattr(worker_watchdog, "WORKER_TIMEOUT_SECONDS", 2.0)
    mine = set(children()) - before
    assert len(mine) == 2
    with pytest.raises(UserError, match="returned nothing for 2 seconds and were killed"):
        for _ in batches:
            pass
    deadline = time.monotonic() + 60
    while mine & set(children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not mine & set(children())


def test_a_loader_within_another() -> None:
    """A worker of the outer loader dies while the inner one is awaited: the inner one continues."""
    outer = numbers(die)
    for _ in range(9):
        next(outer)
    assert [int(each) for each in numbers(lambda: torch.tensor(12))] == list(range(20))
    time.sleep(0.3)
    with pytest.raises(UserError, match="was killed"):
        list(outer)


def children() -> list[int]:
    return [int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
