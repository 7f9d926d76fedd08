import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from coterie.data.loading import worker_watchdog as watch
from coterie.data.loading.workers import worker_batches
from coterie.errors import UserError


class Acts(Dataset[Any]):
    """Gives the number it is asked for; at number 12 it does something else."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __getitem__(self, number: int) -> Any:
        return self.act() if number == 12 else torch.tensor(number)


def numbers(act: Any, workers: int = 2, count: int = 20) -> Iterator[Any]:
    return worker_batches(Acts(act), iter(range(count)), workers, torch.device("cpu"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """As a read from storage that does not answer does: nothing but SIGKILL ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
    time.sleep(1000)


def too_large() -> np.ndarray:
    return np.empty(2**60, dtype=np.uint8)


def unsendable() -> Any:
    return lambda: None


@pytest.mark.parametrize("workers", [0, 2])
def test_all_comes_in_order(workers: int) -> None:
    assert [int(each) for each in numbers(lambda: torch.tensor(12), workers)] == list(range(20))


@pytest.mark.parametrize("act", [die, unsendable])
def test_a_worker_that_dies_is_told_where_it_is_waited_for(act: Any) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    made = numbers(act)
    first = [int(next(made)) for _ in range(9)]  # of two workers, each has two numbers more by now
    time.sleep(0.5)  # one dies meanwhile, and nothing is raised here
    with pytest.raises(UserError, match="a loader worker was killed, most often for want of memory"):
        for _ in made:
            pass
    assert first == list(range(9))
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_workers_that_hang_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WORKER_TIMEOUT_SECONDS", 1.0)
    before = set(children())
    made = numbers(hang)
    next(made)
    mine = set(children()) - before
    assert len(mine) == 2
    with pytest.raises(UserError, match="gave nothing for 1 seconds and were ended"):
        for _ in made:
            pass
    deadline = time.monotonic() + 10
    while mine & set(children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not mine & set(children())


@pytest.mark.parametrize("workers", [0, 2])
def test_want_of_memory_is_one_line(workers: int) -> None:
    with pytest.raises(UserError, match="the memory is not enough for the images: use fewer loader workers") as found:
        list(numbers(too_large, workers))
    assert "Traceback" not in str(found.value)


def test_one_loader_within_another() -> None:
    """A worker of the outer one dies while the inner one is waited for: the inner one goes on."""
    outer = numbers(die)
    for _ in range(9):
        next(outer)
    assert [int(each) for each in numbers(lambda: torch.tensor(12))] == list(range(20))
    time.sleep(0.3)
    with pytest.raises(UserError, match="was killed"):
        list(outer)


def children() -> list[int]:
    return [int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
