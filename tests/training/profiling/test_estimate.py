"""A plan describes what the run then does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.config.describe import explain
from coterie.config.facts import Facts
from coterie.config.toml import from_dict, read_toml
from coterie.data.sources.open import open_source
from coterie.errors import UserError
from coterie.grouping.objective import Objective
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.methods.resolve import resolve_run
from coterie.training.profiling import estimate as estimating
from coterie.training.profiling.estimate import Estimate, Plan
from coterie.training.profiling.rehearsal import WARM_UP, StepTimer, rehearse
from coterie.types import Batch, Progress
from tests.training.profiling.conftest import TINY


class Messages:
    """Keeps all messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tracked = 0

    def info(self, text: str) -> None:
        self.texts.append(text)

    def warning(self, text: str) -> None:
        self.texts.append(text)

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None: ...

    def progress(self, items, total, what):
        for number, item in enumerate(items):
            assert number < total
            self.tracked += what == "rehearsing"
            yield item


def test_a_plan_is_what_pretrain_does_and_leaves_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    requests: dict[str, Any] = {"epochs": 2, "batch_size": 16, "seed": 3, "settings": (*TINY, "groups.counts=[8,8,8]")}
    before, messages = sorted(images.parent.iterdir()), Messages()
    planned = coterie.plan("smog", images, **requests, logger=messages)
    assert messages.tracked == 20
    assert not list(tmp_path.iterdir())
    assert sorted(images.parent.iterdir()) == before
    assert planned.steps_per_epoch == 5

    run = coterie.pretrain("smog", images, out=tmp_path / "run", **requests, logger=messages)
    assert planned.config == from_dict(read_toml(run / "config.toml"))
    assert messages.texts[0] == planned.summary
    logged = {line.split()[0] for line in messages.texts if line.startswith("  ")}
    assert {"backbone.name", "memory.length", "optimizer.kind"} <= logged
    assert not {"epochs", "batch_size", "seed", "groups.counts"} & logged  # the user knows these
    messages.texts.clear()
    coterie.pretrain("smog", images, out=tmp_path / "run", **requests, logger=messages)
    assert not [line for line in messages.texts if line.startswith("  ")]

    estimate = planned.estimate
    assert estimate.starting > 0.5  # a process that imports torch
    assert min(estimate.filling, estimate.training, estimate.refreshes, estimate.reporting, estimate.step) > 0
    assert estimate.training == pytest.approx(10 * estimate.step)
    assert 100 * 2**20 < estimate.main_memory < 2**31
    assert 0 < estimate.worker_memory < estimate.main_memory


def rehearsed(images: Path, capfd: pytest.CaptureFixture[str], method: str, *more: str) -> dict[str, Any]:
    resolved = resolve_run(method, images, {"epochs": 3, "batch_size": 16, "settings": [*TINY, *more]})
    result = rehearse(resolved.config, resolved.source)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert lines == [{"ready": True}, *[{}] * 20]
    return result


def test_a_rehearsal_has_the_phases_of_its_method(
    images: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.training.profiling.rehearsal.MOST_STEPS", 8)  # epochs have 5
    monkeypatch.setattr(
        "coterie.training.profiling.rehearsal.CHUNK_ELEMENTS", 8 * 23
    )  # 23 rows, which are no whole batches of 16
    refreshed: list[Progress] = []
    refresh = Objective.refresh

    def counted(self: Objective, progress: Progress) -> None:
        refreshed.append(progress)
        refresh(self, progress)

    monkeypatch.setattr(Objective, "refresh", counted)
    swav = rehearsed(images, capfd, "swav", "groups.counts=[40]")  # with a memory that begins at the second epoch
    assert swav["filling"] == swav["refresh"] == 0
    for method in ("deepcluster_v2", "sela_v2"):
        other = rehearsed(images, capfd, method, "groups.counts=[8]", "refresh.every_epochs=1")
        assert other["filling"] > 0
        assert other["refresh"] > 0
        assert WARM_UP < other["steps"] <= 8
        assert len(refreshed) == 1  # the one that is timed, and none in a step
        refreshed.clear()
    assert rehearsed(images, capfd, "simclr", "run.workers=0")["workers"] == 0


def test_refreshes_are_counted_and_not_timed_twice(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal of many short epochs has none in its steps; a run has one at the start of each epoch or so."""
    timed = {"first": 0.0, "filling": 1.0, "step": 2.0, "refresh": 10.0, "embedding": 0.0, "steps": 9}
    timed |= {"main": 1, "workers": 1, "device": 0}
    monkeypatch.setattr(estimating, "_rehearsal_lines", lambda config: iter([{"ready": True}, timed]))
    source = open_source(str(images))
    for more, expected in (
        ((), 7),
        (("refresh.every_epochs=3",), 3),
        (("refresh.every_steps=2",), 18),  # 35 steps
    ):
        config = resolve_run("deepcluster_v2", images, {"epochs": 7, "batch_size": 16, "settings": more}).config
        planned = estimating.estimate(config, len(source), 0.5, Messages())
        assert planned.refreshes == 10 * expected
        assert (planned.filling, planned.training) == (5, 70)
        assert planned.seconds == pytest.approx(75 + 10 * expected + planned.starting + estimating.MAP_SECONDS)


def test_a_clock_leaves_the_first_out_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 9.0, 10, 11, 12, 13, 15, 16, 17, 18])  # the start, then the end of each step
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = StepTimer(16.5, 100, torch.device("cpu"))
    batches = ((Progress(step, 9, 99), Batch(torch.arange(2), {})) for step in range(99))
    assert len(list(clock.over(batches))) == 8
    assert clock.times == [9, 1, 1, 1, 1, 2, 1, 1]
    assert clock.typical == 1.25
    assert clock.first == 7.75


def test_what_the_process_refuses_is_refused_here(images: Path) -> None:
    with pytest.raises(UserError, match="resnet50"):
        coterie.plan("swav", images, backbone="resnet51", batch_size=16, settings=TINY)


def test_a_process_that_is_killed_ran_out_of_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "COMMAND", ("sh", "-c", "cat > /dev/null; kill -9 $$"))
    with pytest.raises(UserError, match="memory ran out: use a smaller --batch-size"):
        coterie.plan("swav", images, batch_size=16, settings=TINY)


def test_a_plan_prints_as_the_command_prints_it() -> None:
    planner = Planner(Facts(images=5000, side=32), epochs=40)
    config = METHODS["swav"](planner)
    rows = explain(config, planner.reasons | {"temperature": "set by you"})
    explained = {path: (value, reason) for path, value, reason in rows}
    assert explained["views.crops"][0] == "2x24 + 2x16"
    assert explained["batch_size"] == ("64", "up to 256, as long as an epoch has 64 steps (78)")
    assert explained["epochs"] == ("40", "requested")
    assert explained["groups.counts"][0] == "[100]"
    assert explained["temperature"] == ("0.1", "set by you")
    estimate = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28)
    text = str(Plan(config, planner.reasons, "swav: so many images", 39, estimate))
    assert "one per hundred of 5000 images" in text
    assert (
        "time    about 2.0 h: start 5 s, training 2.0 h, refreshes 12 s, label-free metrics 3 s, report 1 s (0.75 s per step)"
        in text
    )
    assert "filling" not in text
    assert "memory  about 1.75 GiB: 1.50 in the main process, 0.25 in loader processes" in text
    assert "from 33 steps" in text
    gpu = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28, device_memory=2**31)
    assert "device  about 2.00 GiB of tensors" in str(Plan(config, planner.reasons, "swav", 39, gpu))
