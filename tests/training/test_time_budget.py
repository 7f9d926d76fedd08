"""A run with a budget is laid out again when its steps take more or less time than planned, by a clock that is given."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.config.hardware import Runtime
from coterie.config.toml import from_dict, read_toml
from coterie.distributed.processes import rank
from coterie.errors import BadRun, UserError
from coterie.evaluation.callbacks import LabelFreeCallback
from coterie.logger import Logger, NullLogger
from coterie.methods.resolve import resolve_run
from coterie.optim.schedule import Cosine, Linear
from coterie.training import checkpoint_io
from coterie.training.resume import saved_settings
from coterie.training.run import Run
from coterie.training.run_folder import RunFolder
from coterie.training.time_budget import Ending, TimeBudget
from coterie.types import Progress, Stretch
from tests.distributed.running import one_of
from tests.faults.running import SETTINGS, FailsAfter, assert_same_runs, log_lines, write_shard
from tests.forkserver import start_processes

PER_EPOCH, SECONDS = 10, 40.0  # four epochs, if each step takes the second that is planned
SLOW_FROM = 12


class Clock(NullLogger):
    """A clock that moves on with each step, as far as the step takes; as the run's logger it hears of the steps."""

    def __init__(self, takes: Callable[[int], float], now: float = 0.0) -> None:
        self.takes, self.now = takes, now
        self.texts: list[str] = []
        self.budgets: list[tuple[float, float]] = []

    def __call__(self) -> float:
        return self.now

    def info(self, text: str) -> None:
        self.texts.append(text)

    def log_step(self, progress: Progress, seconds: float | None) -> None:
        if seconds is not None:
            self.now += self.takes(progress.step)

    def log_budget(self, used: float, seconds: float) -> None:
        self.budgets.append((used, seconds))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("images") / "patches.tar")


def train(
    images: Path,
    out: Path,
    clock: Clock,
    *callbacks: coterie.Callback,
    seconds: float = SECONDS,
    most: int = 80,
    method: str = "swav",
    workers: int = 0,
    **options: Any,
) -> Clock:
    """Train a run of four epochs, or resume it, with a budget; returns the clock."""
    settings = (
        SETTINGS if method == "swav" else [each for each in SETTINGS if not each.startswith(("memory", "groups"))]
    )
    wanted_settings = [*settings, f"run.workers={workers}", "run.device=cpu", f"run.minutes={seconds / 60}"]
    wanted: dict[str, Any] = {"epochs": 4, "batch_size": 16, "settings": wanted_settings}
    saved = saved_settings(out)
    if saved is not None:
        wanted = {"settings": [f"run.minutes={seconds / 60}", f"run.workers={workers}"]}
    found = resolve_run(method, str(images), wanted | options, saved=saved)
    logger: Logger = clock if rank() == 0 else NullLogger()
    runtime = replace(Runtime.choose("cpu", "float32", workers), logger=logger)
    budget = TimeBudget(seconds, most, clock=clock, ending=Ending(0.0))
    folder = RunFolder(out, held=rank() == 0)
    try:
        own = [LabelFreeCallback(found.config, found.source, runtime)]
        Run(folder, found.source, found.config, runtime, [*callbacks, *own], None, found.reasons, budget).train()
    finally:
        folder.close()
    return clock


class Saves(coterie.Callback):
    """Keeps the steps after which the run was saved."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_checkpoint(self, steps: int) -> None:
        self.after.append(steps)


@dataclass(frozen=True)
class Trained:
    """A run that is over: where it is, its clock and its saves."""

    out: Path
    clock: Clock
    saves: Saves


def trained(images: Path, out: Path, takes: Callable[[int], float]) -> Trained:
    saves = Saves()
    return Trained(out, train(images, out, Clock(takes), saves), saves)


@pytest.fixture(scope="module")
def slowed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Its steps take twice as long from a step on."""
    return trained(images, tmp_path_factory.mktemp("slowed"), slower)


@pytest.fixture(scope="module")
def slow(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All its steps take twice as long."""
    return trained(images, tmp_path_factory.mktemp("slow"), lambda step: 2.0)


def state(out: Path) -> dict[str, Any]:
    found = checkpoint_io.load(out / "checkpoint")[1]
    assert found is not None
    return dict(found["run"])


def slower(step: int) -> float:
    return 1.0 if step < SLOW_FROM else 2.0


def test_a_slower_machine_trains_fewer_steps_and_ends_in_time(slowed: Trained) -> None:
    clock, kept = slowed.clock, state(slowed.out)
    assert kept["lengths"][0] == (0, 40)
    assert 20 <= kept["lengths"][-1][1] < 40
    assert 0.85 * SECONDS < clock.now <= 1.02 * SECONDS
    assert kept["used"] == clock.now
    assert any("laid out again for the" in text and "slower than planned" in text for text in clock.texts)
    log = log_lines(slowed.out)
    assert [line["laid_out"] for line in log if "laid_out" in line] == [list(each) for each in kept["lengths"][1:]]
    facts = json.loads((slowed.out / "run.json").read_text())["budget"]
    assert (facts["seconds"], facts["used"], facts["steps"]) == (SECONDS, clock.now, kept["lengths"][-1][1])
    assert facts["laid_out"] == [list(each) for each in kept["lengths"][1:]]
    assert from_dict(read_toml(slowed.out / "config.toml")).total_steps(165) == facts["steps"]
    assert "snapshot" in log[-1]
    assert log[-1]["step"] == facts["steps"] - 1
    assert clock.budgets[-1] == (clock.now, SECONDS)


def test_schedules_go_on_without_a_jump_and_reach_their_end(slowed: Trained) -> None:
    rate = from_dict(read_toml(slowed.out / "config.toml")).learning_rate
    rates = {line["step"]: line["lr"] for line in log_lines(slowed.out) if "lr" in line}
    (steps, values), total = zip(*rates.items(), strict=True), state(slowed.out)["lengths"][-1][1]
    assert steps[-1] == total - 1
    planned = [rate.at(Progress(step, PER_EPOCH, 40)) for step in range(40)]
    largest = max(abs(after - before) for before, after in pairwise(planned[10:]))
    assert isinstance(rate, Cosine)
    assert values[-1] < rate.peak / 20
    for (step, before), (later, after) in pairwise(list(rates.items())[4:]):
        assert 0 <= before - after <= 3 * largest * (later - step), step


@pytest.mark.parametrize(("most", "expected"), [(80, 70), (55, 55)])
def test_a_faster_machine_trains_more_but_not_more_than_helps(
    images: Path, tmp_path: Path, most: int, expected: int
) -> None:
    clock = train(images, tmp_path, Clock(lambda step: 0.5), most=most)
    total = state(tmp_path)["lengths"][-1][1]
    assert expected <= total <= most
    assert clock.now <= SECONDS
    assert any("faster than planned" in text for text in clock.texts)


def test_as_planned_nothing_changes(images: Path, tmp_path: Path) -> None:
    clock = train(images, tmp_path, Clock(lambda step: 0.98))
    kept = state(tmp_path)
    assert (kept["lengths"], kept["stretch"], clock.now) == ([(0, 40)], (), pytest.approx(0.98 * 40))


@pytest.mark.parametrize(("method", "workers"), [("swav", 0), ("swav", 2), ("deepcluster_v2", 0)])
def test_after_the_change_a_resume_is_bit_for_bit_the_same(
    images: Path, slow: Trained, tmp_path: Path, method: str, workers: int
) -> None:
    """The resumed process has another clock, which did not run while the run lay still, and starts where it likes."""
    one, other, how = tmp_path / "one", tmp_path / "other", {"method": method, "workers": workers}
    if method == "swav":  # also with workers: their number changes nothing but config.toml
        one = slow.out
    else:
        train(images, one, Clock(lambda step: 2.0), **how)
    changed = state(one)["lengths"]
    assert len(changed) == 2, "one change, early on"
    with pytest.raises(UserError, match="FailsAfter failed"):
        train(images, other, Clock(lambda step: 2.0), FailsAfter(changed[1][0] + 3), **how)
    assert state(other)["lengths"] == changed
    train(images, other, Clock(lambda step: 2.0, now=4096.0), **how)
    assert_same_runs(one, other)


def test_the_change_itself_is_saved(slow: Trained) -> None:
    assert state(slow.out)["lengths"][1][0] in slow.saves.after


def test_a_larger_budget_extends_and_one_that_is_used_up_is_refused(
    images: Path, slow: Trained, tmp_path: Path
) -> None:
    shutil.copytree(slow.out, tmp_path, dirs_exist_ok=True)
    total = state(tmp_path)["lengths"][-1][1]
    assert any("is finished" in text for text in train(images, tmp_path, Clock(lambda step: 2.0)).texts)
    with pytest.raises(BadRun, match=r"has used 40 s of training: give more than --time 40s, or leave it out"):
        train(images, tmp_path, Clock(lambda step: 2.0), seconds=30.0)
    clock = train(images, tmp_path, Clock(lambda step: 2.0), seconds=60.0)
    assert any(f"extended from {total} to " in text for text in clock.texts)
    assert total < state(tmp_path)["lengths"][-1][1] <= 30
    assert clock.now <= 60 - 2 * total + 2


def test_more_epochs_extend_a_run_with_a_budget(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, Clock(lambda step: 0.5), most=40)
    assert state(tmp_path)["lengths"] == [(0, 40)]
    train(images, tmp_path, Clock(lambda step: 0.5), epochs=6)
    assert state(tmp_path)["lengths"] == [(0, 40), (40, 60)]


def test_all_processes_follow_the_first_ones_clock(images: Path, tmp_path: Path) -> None:
    """The second one's clock says that a step takes a hundred times as long."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(images, one, Clock(slower), method="simclr")
    start_processes(_process, (2, str(images), str(two), str(tmp_path)), nprocs=2)
    assert state(two)["lengths"] == state(one)["lengths"] != [(0, 40)]
    lines = [[line["step"] for line in log_lines(out)] for out in (one, two)]
    assert lines[0] == lines[1]


def _process(number: int, world: int, images: str, out: str, folder: str) -> None:
    with one_of(world, number, folder):
        train(Path(images), Path(out), Clock(lambda step: slower(step) * (1 if number == 0 else 100)), method="simclr")


@pytest.mark.parametrize("schedule", [Cosine(1.0, 0.1, warmup_epochs=2), Linear(1.0, 0.5)])
@pytest.mark.parametrize("total", [14, 25, 90])
def test_a_stretched_schedule_is_continuous(schedule: Cosine | Linear, total: int) -> None:
    before, stretch = Progress(12, PER_EPOCH, 40), Stretch(13, 13.0, 40)
    after = [schedule.at(Progress(step, PER_EPOCH, total, stretch)) for step in range(13, total)]
    assert after[0] == pytest.approx(schedule.at(Progress(13, PER_EPOCH, 40)), abs=0.5 if total == 14 else 0.05)
    assert Progress(13, PER_EPOCH, total, stretch).on_schedule() == before.on_schedule(1)
    assert Progress(total - 1, PER_EPOCH, total, stretch).on_schedule(1) == pytest.approx(40)
    if isinstance(schedule, Linear):
        assert after[-1] == pytest.approx(0.5)
    warm = Progress(15, PER_EPOCH, 24, Stretch(10, 10.0, 40))  # within a warm-up of 20 steps, at 3 for each one
    assert max(schedule.at(replace(warm, step=step)) for step in range(10, 24)) <= 1.0
