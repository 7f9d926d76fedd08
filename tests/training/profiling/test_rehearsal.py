"""A rehearsal has the phases of its method, and leaves no trace in the process."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.config.hardware import Runtime
from coterie.grouping.objective import Objective
from coterie.methods.resolve import resolve_run
from coterie.training.profiling import rehearsal
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal import rehearse
from coterie.training.profiling.rehearsal_here import undisturbed
from coterie.training.profiling.step_timer import TICKS, WARM_UP, StepTimer
from coterie.types import Batch, Progress
from tests.training.profiling.conftest import TINY


def rehearsed(images: Path, method: str, *more: str, seconds: float = 30.0, alone: bool = True) -> Rehearsal:
    resolved = resolve_run(method, images, {"epochs": 3, "batch_size": 16, "settings": [*TINY, *more]})
    runtime, shares = Runtime.choose("cpu", "float32", resolved.config.run.workers), []
    result = rehearse(resolved.config, resolved.source, runtime, seconds, alone=alone, tick=shares.append)
    assert shares[-1] == 1.0
    assert all(0 <= share <= 1 for share in shares)
    return result


@pytest.fixture
def refreshed(monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    calls: list[Progress] = []
    refresh = Objective.refresh

    def counted(self: Objective, progress: Progress) -> None:
        calls.append(progress)
        refresh(self, progress)

    monkeypatch.setattr(Objective, "refresh", counted)
    return calls


def test_a_rehearsal_has_the_phases_of_its_method(
    images: Path, refreshed: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MOST_STEPS", 8)  # epochs have 5
    monkeypatch.setattr(rehearsal, "CHUNK_ELEMENTS", 8 * 23)  # 23 rows, which are no whole batches of 16
    swav = rehearsed(images, "swav", "groups.counts=[40]")  # with a memory that begins at the second epoch
    assert swav.filling == swav.refresh == 0
    assert swav.main > swav.workers > 0
    for method in ("deepcluster_v2", "sela_v2"):
        for alone in (True, False):
            other = rehearsed(images, method, "groups.counts=[8]", "refresh.every_epochs=1", alone=alone)
            assert min(other.filling, other.refresh, other.step, other.embedding) > 0
            assert other.part == other.batch == 16
            assert WARM_UP < other.steps <= 8 if alone else other.steps == 4  # of 15
            assert len(refreshed) == 1  # the one that is timed, and none in a step
            refreshed.clear()
    assert rehearsed(images, "simclr", "run.workers=0").workers == 0


@pytest.mark.parametrize("more", [(), ("micro_batches=4",)])
@pytest.mark.parametrize("method", ["swav", "smog", "sela_v2", "simclr"])
def test_where_a_batch_takes_too_long_a_part_of_it_is_trained(
    images: Path, monkeypatch: pytest.MonkeyPatch, method: str, more: tuple[str, ...]
) -> None:
    if method == "simclr" and more:
        more = ("micro_batches=2",)
    sizes: list[int] = []
    build = rehearsal.build_loader

    def built(config: Any, *others: Any) -> Any:
        sizes.append(config.batch_size)
        return build(config, *others)

    monkeypatch.setattr(rehearsal, "build_loader", built)
    counts = {"swav": ("groups.counts=[8]",), "smog": ("groups.counts=[8,8,8]",), "sela_v2": ("groups.counts=[8]",)}
    result = rehearsed(images, method, *counts.get(method, ()), *more, seconds=1e-6, alone=False)
    smallest = 4 if more else 2
    assert sizes == [smallest, 2 * smallest]
    assert (result.batch, result.part) == (16, 2 * smallest)
    assert result.basis == f"{result.steps} step of {2 * smallest} of the 16 images, rehearsed just now"
    assert result.step > 0
    assert (result.main, result.workers) == (0, 0)  # another process measures memory


def test_memory_that_steps_do_not_read_is_small_before_a_run(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refresh counts as one of the whole memory."""
    monkeypatch.setattr(rehearsal, "MEMORY_ROWS", 16)
    lengths: list[tuple[int, int]] = []
    simulate = rehearsal.simulate_full_memory

    def simulated(objective: Any, config: Any, images: int, refresh: bool, rows: int) -> float:
        found = simulate(objective, config, images, refresh, rows)
        lengths.append((objective.memory.length, rows))
        assert not refresh or found > simulate(objective, replace(config, epochs=9), images, True, 16)
        return found

    monkeypatch.setattr(rehearsal, "simulate_full_memory", simulated)
    settings = ("groups.counts=[8]", "memory.length=16000")
    rehearsed(images, "deepcluster_v2", *settings, seconds=0.5, alone=False)
    assert lengths[-1] == (16, 16000)


@pytest.mark.parametrize("whole", [True, False])
def test_the_fastest_number_of_threads_is_taken(images: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    chosen: list[int] = []

    def fastest(found: Mapping[int, float]) -> int:
        assert min(found.values()) > 0
        chosen.append(max(found))  # two; one where the machine is so busy that two were given up
        return chosen[-1]

    monkeypatch.setattr(rehearsal, "fastest", fastest)
    monkeypatch.setattr(rehearsal, "affordable", lambda smallest, batch, *_: batch if whole else 4)
    settings = [*TINY, "groups.counts=[8]", "run.threads=0"]
    resolved = resolve_run("swav", images, {"epochs": 1, "batch_size": 16, "settings": settings})
    runtime = Runtime.choose("cpu", "float32", 1)
    found = rehearse(resolved.config, resolved.source, runtime, 1.0, threads=(1, 2), busy=1)
    assert found.threads == chosen[-1] == torch.get_num_threads()  # images are embedded as in the run
    assert (found.part, found.batch) == (16 if whole else 4, 16)
    assert " 1 of " in found.why
    assert " with 1, " in found.why


def test_nothing_random_is_different_afterwards(images: Path) -> None:
    resolved = resolve_run("swav", images, {"epochs": 3, "batch_size": 16, "settings": [*TINY, "groups.counts=[8]"]})
    torch.set_num_threads(2)
    drawn = []
    for disturbed in (False, True):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
        if disturbed:
            with undisturbed(torch.device("cpu")):
                rehearse(resolved.config, resolved.source, Runtime.choose("cpu"), 1.0)
                torch.set_num_threads(1)
                torch.rand(1), random.random(), np.random.random()  # noqa: NPY002
        drawn.append((torch.rand(1).item(), random.random(), np.random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert torch.get_num_threads() == 2


def test_before_a_run_few_of_its_steps_are_rehearsed() -> None:
    assert [rehearsal._few_of(steps) for steps in (1, 2, 3, 10, 200, 1000, 9999)] == [2, 2, 3, 4, 10, 50, 60]


def test_a_clock_leaves_the_first_out_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [9.0, 10, 11, 12, 13, 15, 16, 17]  # of the steps; each batch is waited for a quarter of a second
    came = [0.25, *(end + 0.25 for end in ends)]
    now = iter([0.0, *(moment for pair in zip(came, ends, strict=False) for moment in pair)])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    shares: list[float] = []
    clock = StepTimer(16.5, 100, torch.device("cpu"), shares.append)
    batches = ((Progress(step, 9, 99), Batch(torch.arange(2), {})) for step in range(99))
    assert len(list(clock.over(batches))) == 8
    assert (clock.waits, clock.works) == ([0.25] * 8, [8.75, 0.75, 0.75, 0.75, 0.75, 1.75, 0.75, 0.75])
    assert (clock.typical, clock.typical_work, clock.typical_wait) == (1.25, 1.0, 0.25)
    assert clock.first == 7.75
    assert shares[-1] == 1.0
    assert len(shares) == 8


def test_steps_take_turns_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    now, took = 0.0, []
    monkeypatch.setattr("time.perf_counter", lambda: now)
    clock = StepTimer(1000.0, 9, torch.device("cpu"), threads=(1, 2))
    for _ in clock.over((Progress(step, 9, 99), Batch(torch.arange(2), {})) for step in range(99)):
        took.append(torch.get_num_threads())
        now += 10.0 if len(took) <= 2 else 3.0 / took[-1]
    assert took == [1, 2, 2, 1, 1, 2, 2, 1, 1]
    assert (clock.of(1).works, clock.of(2).works) == ([10.0, 3.0, 3.0, 3.0, 3.0], [10.0, 1.5, 1.5, 1.5])
    assert (clock.of(1).typical, clock.of(2).typical) == (3.0, 1.5)  # without the warm-up of each


def test_a_clock_makes_the_least_number_of_steps() -> None:
    clock = StepTimer(0.0, 100, torch.device("cpu"), least=3)
    assert len(list(clock.over((Progress(step, 9, 99), Batch(torch.arange(2), {})) for step in range(99)))) == 3
    assert TICKS == 20
