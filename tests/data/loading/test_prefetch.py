import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from coterie.data.loading import sampler as sampler_module
from coterie.data.loading.prefetch import PrefetchProcess, WindowPrefetcher
from coterie.data.loading.sampler import BlockShuffleSampler
from coterie.data.sources.shard_layout import ShardLayout
from coterie.errors import UserError


class Recorder:
    """Writes the ranges that it prefetches to a folder, as the names of files; waits while there is a file "wait"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prefetch(self, start: int, stop: int) -> None:
        (self.folder / f"begun {start} {stop}").touch()
        while (self.folder / "wait").exists():
            time.sleep(0.01)
        if start == 13:
            raise UserError("the store does not answer")
        (self.folder / f"{start} {stop}").touch()

    def done(self, word: str = "") -> set[tuple[int, int]]:
        names = [path.name.removeprefix(word).split() for path in self.folder.glob(f"{word}[0-9]*")]
        return {(int(start), int(stop)) for start, stop in names}


@pytest.fixture
def source(tmp_path) -> Recorder:
    return Recorder(tmp_path)


def until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it does not happen"
        time.sleep(0.01)


def test_requested_ranges_are_fetched_in_another_process(source):
    process = PrefetchProcess(source)
    process.request([(0, 5), (5, 9)])
    until(lambda: source.done() == {(0, 5), (5, 9)})
    process.close()
    assert not process.process.is_alive()


def test_a_failure_is_left_to_those_who_read_the_images(source):
    process = PrefetchProcess(source)
    process.request([(13, 14), (14, 15)])
    until(lambda: source.done() == {(14, 15)})
    process.request([(15, 16)])
    until(lambda: source.done() == {(14, 15), (15, 16)})
    process.close()


def test_a_request_replaces_those_that_were_not_begun(source, tmp_path):
    (tmp_path / "wait").touch()
    process = PrefetchProcess(source)
    process.request([(0, 1)])
    until(lambda: source.done("begun ") == {(0, 1)})
    for number in range(1, 5):
        process.request([(number, number + 1)])
    (tmp_path / "wait").unlink()
    until(lambda: (4, 5) in source.done())
    assert source.done() == {(0, 1), (4, 5)}
    process.close()


def test_several_ranges_are_fetched_at_the_same_time(source, tmp_path):
    (tmp_path / "wait").touch()
    process = PrefetchProcess(source)
    process.request([(number, number + 1) for number in range(10)])
    until(lambda: len(source.done("begun ")) == 4)
    time.sleep(0.2)
    assert source.done("begun ") == {(0, 1), (1, 2), (2, 3), (3, 4)}
    (tmp_path / "wait").unlink()
    process.close()


def test_the_run_continues_without_a_killed_process(source):
    process = PrefetchProcess(source)
    os.kill(process.process.pid, signal.SIGKILL)
    process.process.join()
    for _ in range(3):
        process.request([(0, 1)])
    process.close()


def test_ctrl_c_does_not_end_the_process(source):
    process = PrefetchProcess(source)
    process.request([(0, 1)])
    until(lambda: source.done() == {(0, 1)})
    os.kill(process.process.pid, signal.SIGINT)
    process.request([(1, 2)])
    until(lambda: (1, 2) in source.done())
    process.close()


def be_killed(source: Recorder, pids) -> None:
    pids.put(PrefetchProcess(source).process.pid)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_process_ends_with_the_one_that_started_it(source):
    context = get_context("fork")
    pids = context.Queue()
    run = context.Process(target=be_killed, args=(source, pids))
    run.start()
    pid = pids.get(timeout=100)
    run.join()
    status = Path(f"/proc/{pid}/stat")
    until(lambda: not status.exists() or "Z" in status.read_text().split()[2])


@pytest.fixture
def sampler(monkeypatch) -> BlockShuffleSampler:
    """Six shards of 20 images in windows of two."""
    monkeypatch.setattr(sampler_module, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(sampler_module, "WINDOW_IMAGES", 20)
    return BlockShuffleSampler(0, ShardLayout(np.arange(0, 121, 20), True))


def test_the_window_in_use_and_the_next_one_are_prefetched(source, sampler):
    prefetcher = WindowPrefetcher(source, sampler)
    prefetcher.move_to(0, 0)
    expected = {*sampler.ranges(0, 0), *sampler.ranges(0, 1)}
    until(lambda: source.done() == expected)
    assert len(expected) == 4
    for path in source.folder.iterdir():
        path.unlink()
    prefetcher.move_to(0, 39)  # still the same window: nothing new is requested
    prefetcher.move_to(0, 100)  # the last window: the next one is the first of the next epoch
    expected = {*sampler.ranges(0, 2), *sampler.ranges(1, 0)}
    until(lambda: source.done() == expected)
    prefetcher.close()
    assert not prefetcher.prefetching.process.is_alive()


def test_nothing_is_requested_again_within_a_window(source, sampler, monkeypatch):
    prefetcher = WindowPrefetcher(source, sampler)
    requests = []
    monkeypatch.setattr(prefetcher.prefetching, "request", requests.append)
    for position in range(120):
        prefetcher.move_to(0, position)
    assert len(requests) == 3
    prefetcher.close()
