"""A new run chooses its threads by measuring, says why, and keeps the number."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.config.hardware import Runtime
from coterie.config.toml import read_toml
from coterie.errors import UserError
from coterie.methods.resolve import resolve_run
from coterie.training.callback import Callback
from coterie.training.profiling import choose_threads, rehearsal, rehearsal_cache, rehearsal_process
from coterie.training.profiling import threads as threads_module
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.threads import fastest, reason, still_worth_trying, threads_to_try, with_threads
from coterie.types import Progress, StepResult
from tests.faults.running import assert_same_runs
from tests.training.profiling.conftest import TINY
from tests.training.profiling.test_estimate import Messages

SETTINGS = [*(each for each in TINY if "threads" not in each), "groups.counts=[8]", "run.snapshots=0", "run.device=cpu"]
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 16, "settings": SETTINGS}  # 10 steps


@pytest.fixture(autouse=True)
def two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many as torch would take on two cores, of which nobody else uses one."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rehearsal_cache, "cores_of_others", lambda: 0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def taking(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Whatever the clock says on a shared machine."""
    monkeypatch.setattr(rehearsal, "fastest", lambda found: threads)


def rehearsing(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Without the steps: two threads on a busy machine are slow."""
    found = Rehearsal(1.0, 0.0, 0.0, 0.1, 0.1, 16, 16, 4, "2026-11-29", threads=threads, why="measured")
    monkeypatch.setattr(choose_threads, "rehearse_here", lambda *_, **__: found)


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("rehearsed")


def resolved(images: Path, *more: str) -> Any:
    return resolve_run("swav", images, OPTIONS | {"settings": [*SETTINGS, *more]})


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.98}, 1),
        ({1: 5.1, 2: 18.6}, 1),
        ({1: 1.0, 8: 0.3, 16: 0.2}, 16),
        ({1: 1.0, 8: 0.3, 16: 0.4}, 8),
        ({1: 1.0, 8: 0.3, 16: 0.295}, 8),
    ],
)
def test_the_fewest_threads_that_are_as_fast_as_the_best_are_taken(seconds: dict[int, float], taken: int) -> None:
    assert fastest(seconds) == taken


def test_what_would_only_cost_time_is_not_tried_again() -> None:
    assert still_worth_trying({1: 0.1, 2: 7.5}) == (1,)
    assert still_worth_trying({1: 0.01, 64: 0.4}) == (1, 64)  # a step of two tiny images says little
    assert still_worth_trying({1: 2.0, 2: 4.0, 4: 7.0}) == (1, 2)
    assert still_worth_trying({1: 9.0, 2: 1.0}) == (2,)


def test_the_reason_says_what_was_measured() -> None:
    assert reason({1: 0.5}, 1, 2, 16) == ""
    said = "the fastest of those tried: a step of 16 images took 0.5 s with 1, 0.31 s with 2"
    assert reason({2: 0.31, 1: 0.5}, 0, 2, 16) == said
    assert "while other processes kept 1 of 2 cores busy" in reason({1: 0.5, 2: 1.0}, 1, 2, 16)


def test_what_is_tried(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = resolved(images).config, torch.device("cpu")
    assert threads_to_try(config, cpu) == (1, 2)
    assert threads_to_try(with_threads(config, 3), cpu) == (3,)
    assert threads_to_try(config, torch.device("cuda")) == (2,)
    assert threads_to_try(replace(config, custom=("backbone",)), cpu) == (2,)
    for threads, tried in ((1, (1,)), (4, (1, 4)), (16, (1, 8, 16))):
        torch.set_num_threads(threads)
        assert threads_to_try(config, cpu) == tried
    monkeypatch.setattr(threads_module, "world_size", lambda: 2)
    assert threads_to_try(config, cpu) == (16,)


def test_a_plan_and_the_run_after_it_share_one_choice(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 1
    taking(monkeypatch, taken)
    monkeypatch.setattr(rehearsal_process, "is_from_python", lambda spec: True)  # rehearsed here, to be quick
    plan = coterie.plan("swav", images, logger=Messages(), **OPTIONS)
    assert plan.config.run.threads == taken
    assert plan.reasons["run.threads"].startswith("the fastest of those tried: a step of ")
    assert f"run.threads             {taken} " in str(plan)
    monkeypatch.setattr(choose_threads, "rehearse_here", never)
    messages = Messages()
    coterie.pretrain("swav", images, out=tmp_path / "run", logger=messages, **OPTIONS)
    assert read_toml(tmp_path / "run" / "config.toml")["run"]["threads"] == taken
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert ["run.threads", str(taken), plan.reasons["run.threads"]] in facts["automatic"]
    assert f"  run.threads {taken}: {plan.reasons['run.threads']}" in messages.texts
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(rehearsal_process, "rehearse_here", never)  # a run with its settings is known too
    options = {"config": tmp_path / "run" / "config.toml"}
    assert coterie.plan(logger=Messages(), **options).config.run.threads == taken


class Stop(Callback):
    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        if progress.step == 4:
            raise UserError("enough")


def test_a_resume_keeps_its_threads_bit_for_bit(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet run measures too; what resumes it and what takes its settings does not."""
    rehearsing(monkeypatch, 1)
    coterie.pretrain("swav", images, out=tmp_path / "whole", quiet=True, **OPTIONS)
    torch.set_num_threads(4)
    monkeypatch.setattr(choose_threads, "rehearse_here", never)
    options = {"config": tmp_path / "whole" / "config.toml"}
    with pytest.raises(UserError, match="enough"):
        coterie.pretrain(out=tmp_path / "resumed", quiet=True, callbacks=[Stop()], **options)
    torch.set_num_threads(3)
    coterie.pretrain("swav", images, out=tmp_path / "resumed", quiet=True, **OPTIONS)
    assert read_toml(tmp_path / "resumed" / "config.toml")["run"]["threads"] == 1
    assert_same_runs(tmp_path / "whole", tmp_path / "resumed")


def test_the_choice_changes_nothing_but_the_threads(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all not the precision, which follows from the hardware."""
    wanted = resolved(images)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))  # nothing can be kept: that is no error
    for taken in (1, 2):
        rehearsing(monkeypatch, taken)
        runtime = Runtime.choose("cpu", "auto", 0)
        chosen = choose_threads.choose_threads(wanted.config, wanted.reasons, wanted.source, runtime)
        assert chosen.config.run.threads == taken
        assert with_threads(chosen.config, 0) == wanted.config
        assert chosen.reasons.keys() - wanted.reasons.keys() == {"run.threads"}
        assert chosen.rehearsed is not None
        assert chosen.rehearsed.key["precision"] == str(runtime.autocast)


def test_the_first_process_decides(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = resolved(images)
    monkeypatch.setattr(threads_module, "world_size", lambda: 2)
    monkeypatch.setattr(choose_threads, "broadcast_object", lambda own: (own[0] + 5, "as process 0 says"))
    chosen = choose_threads.choose_threads(wanted.config, wanted.reasons, wanted.source, Runtime())
    assert (chosen.config.run.threads, chosen.rehearsed) == (7, None)
    assert chosen.reasons["run.threads"] == "as process 0 says"


def test_what_cannot_be_rehearsed_takes_torchs_number(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise UserError("not here")

    wanted = resolved(images)
    monkeypatch.setattr(choose_threads, "rehearse_here", failing)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen = choose_threads.choose_threads(wanted.config, wanted.reasons, wanted.source, Runtime())
    assert (chosen.config.run.threads, chosen.reasons["run.threads"]) == (2, "torch's choice")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    chosen = choose_threads.choose_threads(wanted.config, wanted.reasons, wanted.source, Runtime())
    assert chosen.reasons["run.threads"] == "torch's choice, with OMP_NUM_THREADS=2"
