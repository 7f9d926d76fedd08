"""A plan describes what the run then does."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.config.describe import explain
from coterie.config.facts import Facts
from coterie.config.toml import from_dict, read_toml
from coterie.errors import UserError
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.methods.resolve import resolve_run
from coterie.training.profiling import rehearsal_process
from coterie.training.profiling.estimate import MAP_SECONDS, Estimate, Plan, estimate
from coterie.training.profiling.extrapolation import Rehearsal
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
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
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
    said = next(line for line in messages.texts if line.startswith("about "))
    assert planned.estimate.basis.replace("just now", "on") in said  # the run relies on the plan
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


def test_a_second_plan_is_the_first_one_again(images: Path) -> None:
    """It says so, and its time and memory are those that were measured."""
    options: dict[str, Any] = {"epochs": 4, "batch_size": 16, "settings": (*TINY, "groups.counts=[9]")}
    first, messages = coterie.plan("swav", images, **options), Messages()
    second = coterie.plan("swav", images, **options, logger=messages)
    assert messages.tracked == 0
    assert first.estimate.basis.endswith("rehearsed just now")
    assert second.estimate.basis.endswith(f"rehearsed on {date.today().isoformat()}")
    assert (first.estimate.step, first.estimate.memory) == (second.estimate.step, second.estimate.memory)


def test_refreshes_are_counted_and_not_timed_twice(images: Path) -> None:
    """A rehearsal of many short epochs has none in its steps; a run has one at the start of each epoch or so."""
    timed = Rehearsal(2.0, 1.0, 10.0, embedding=0.1, first=0.5, batch=16, part=16, steps=9, day="2026-11-29")
    for more, expected in (
        ((), 7),
        (("refresh.every_epochs=3",), 3),
        (("refresh.every_steps=2",), 18),  # 35 steps
    ):
        config = resolve_run("deepcluster_v2", images, {"epochs": 7, "batch_size": 16, "settings": more}).config
        planned = estimate(config, 80, timed, before=4.0, label_free_images=70, report_images=20)
        assert planned.refreshes == 10 * expected
        assert (planned.starting, planned.filling, planned.training) == (4.5, 5, 70)
        assert (planned.evaluating, planned.reporting) == (pytest.approx(7), pytest.approx(2 + MAP_SECONDS))
        assert planned.seconds == pytest.approx(70 + 5 + 10 * expected + 4.5 + 9 + MAP_SECONDS)

        left = estimate(config, 80, timed, start=15, label_free_images=70, report_images=20)  # three epochs are done
        assert left.training == 40
        assert left.filling == 0
        assert left.refreshes == 10 * {7: 4, 3: 2, 18: 10}[expected]
        assert left.evaluating == pytest.approx(4)


def test_what_the_process_refuses_is_refused_here(images: Path) -> None:
    with pytest.raises(UserError, match="resnet50"):
        coterie.plan("swav", images, backbone="resnet51", batch_size=16, settings=TINY)


def test_a_process_that_is_killed_ran_out_of_memory(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path))
    monkeypatch.setattr(rehearsal_process, "COMMAND", ("sh", "-c", "cat > /dev/null; kill -9 $$"))
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
    found = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28, basis="33 steps, rehearsed just now")
    text = str(Plan(config, planner.reasons, "swav: so many images", 39, found))
    assert "one per hundred of 5000 images" in text
    assert (
        "time    about 2.0 h: start 5 s, training 2.0 h, refreshes 12 s, label-free metrics 3 s, report 1 s (0.75 s per step)"
        in text
    )
    assert "filling" not in text
    assert "memory  about 1.75 GiB: 1.50 in the main process, 0.25 in loader processes" in text
    assert "from 33 steps, rehearsed just now, on this machine" in text
    gpu = Estimate(5, 0, 7200, 12, 3, 1, 0.75, 33, 3 * 2**29, 2**28, device_memory=2**31)
    assert "device  about 2.00 GiB of tensors" in str(Plan(config, planner.reasons, "swav", 39, gpu))
