"""A run says how long it takes, learns from its own steps, and trains the same numbers as without."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import coterie
from coterie.config.hardware import Runtime
from coterie.errors import UserError
from coterie.logger import NullLogger
from coterie.methods.resolve import resolve_run
from coterie.training.callback import Callback, RunContext
from coterie.training.profiling import real_steps, time_callback
from coterie.training.profiling.real_steps import RealSteps
from coterie.training.profiling.rehearsal_cache import load_rehearsal, rehearsal_key
from coterie.training.profiling.time_callback import TimeCallback
from coterie.types import Progress, StepResult
from tests.training.profiling.conftest import TINY
from tests.training.profiling.test_estimate import Messages

SETTINGS = (*TINY, "groups.counts=[8]", "run.snapshots=0", "run.device=cpu")
OPTIONS: dict[str, Any] = {"epochs": 7, "batch_size": 16, "settings": SETTINGS}  # 35 steps


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rehearsals"


def trained(images: Path, out: Path, method: str = "swav", **more: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    messages = Messages()
    coterie.pretrain(method, images, out=out, logger=messages, **(OPTIONS | more))
    return safetensors.torch.load_file(out / "model.safetensors"), messages.texts


def about_time(texts: list[str]) -> list[str]:
    return [line for line in texts if line.startswith(("about ", "now about "))]


def log(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("images_per_second", "data_wait")}
        for line in lines
    ]


@pytest.mark.parametrize(("method", "more"), [("swav", ()), ("deepcluster_v2", ("run.workers=0",)), ("simclr", ())])
def test_a_run_is_the_same_with_and_without(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, more: tuple[str, ...]
) -> None:
    """Rehearsed, from the cache, and silent: bit for bit the same weights and the same log."""
    counts = [] if method == "simclr" else ["groups.counts=[8]"]
    how: dict[str, Any] = {"settings": (*TINY, *counts, "run.snapshots=0", *more), "epochs": 5}  # 25 steps: 4, 20 timed
    new, said = trained(images, tmp_path / "new", method, **how)
    cached, said_again = trained(images, tmp_path / "cached", method, **how)
    monkeypatch.setattr(TimeCallback, "on_start", Callback.on_start)
    silent, nothing = trained(images, tmp_path / "silent", method, **how)
    assert "rehearsed just now" in about_time(said)[0]
    assert "steps of a run on " in about_time(said_again)[0]  # the first run's own
    assert not about_time(nothing)
    for other, out in ((cached, "cached"), (silent, "silent")):
        assert all(torch.equal(new[name], other[name]) for name in new)
        assert log(tmp_path / "new") == log(tmp_path / out)


def test_two_lines_come_before_the_first_step(images: Path, tmp_path: Path) -> None:
    _, texts = trained(images, tmp_path / "run")
    (place,) = [number for number, line in enumerate(texts) if line.startswith("about ")]
    assert texts[place + 1].startswith("80 images are few")
    assert ": 35 steps of " in texts[place]
    assert texts[0].startswith("swav: 80 images")


class Stop(Callback):
    def on_start(self, run: RunContext) -> None:
        self.run = run

    def on_epoch_end(self, progress: Progress) -> None:
        if progress.epoch == 3:
            raise UserError("enough")


def test_a_resumed_run_says_what_is_left_and_a_finished_one_nothing(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="enough"):
        trained(images, tmp_path / "run", callbacks=[Stop()])
    _, texts = trained(images, tmp_path / "run")
    (line,) = [line for line in texts if line.startswith("about ")]
    assert " left: 15 steps of " in line
    assert not [line for line in texts if "are few" in line]
    (tmp_path / "run" / "report.html").unlink()
    _, texts = trained(images, tmp_path / "run")  # only the report is written
    assert not about_time(texts)


class End(Callback):
    def on_start(self, run: RunContext) -> None:
        self.run = run

    def on_epoch_end(self, progress: Progress) -> None:
        if progress.epoch == 3:
            self.run.end("enough")


def test_a_run_that_was_ended_says_nothing(images: Path, tmp_path: Path) -> None:
    _, first = trained(images, tmp_path / "run", callbacks=[End()])
    (tmp_path / "run" / "report.html").unlink()
    _, texts = trained(images, tmp_path / "run", callbacks=[End()])
    assert len([line for line in first if line.startswith("about ")]) == 1
    assert not about_time(texts)


class Slow(Callback):
    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        time.sleep(0.3)


def test_real_steps_correct_what_was_said_and_the_next_run_knows(images: Path, tmp_path: Path) -> None:
    _, texts = trained(images, tmp_path / "run", callbacks=[Slow()], epochs=6)
    (corrected,) = [line for line in texts if line.startswith("now about ")]
    assert texts.index(corrected) > next(number for number, line in enumerate(texts) if line.startswith("about "))
    assert float(corrected.split("a step takes ")[1].split()[0]) >= 0.3
    wanted = resolve_run("swav", images, OPTIONS | {"epochs": 6})
    run = wanted.config.run
    found = load_rehearsal(
        rehearsal_key(wanted.config, wanted.source, Runtime.choose(run.device, run.precision, run.workers))
    )
    assert found is not None
    assert found.real
    assert found.step > 0.3
    assert found.embedding > 0  # of the rehearsal
    _, texts = trained(images, tmp_path / "again", epochs=6)
    assert float(about_time(texts)[0].split("steps of ")[1].split()[0]) >= 0.3
    assert "steps of a run on 20" in about_time(texts)[0]


def test_what_cannot_be_rehearsed_is_said_after_some_steps(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an error of the rehearsal; the run itself, which does not have it, goes on."""

    def failing(*_: Any, **__: Any) -> None:
        raise UserError("not here")

    monkeypatch.setattr(time_callback, "rehearse_here", failing)
    _, texts = trained(images, tmp_path / "run")
    (line,) = about_time(texts)
    assert " left: 11 steps of " in line
    assert "(from 20 steps of a run on " in line


def test_nothing_is_rehearsed_where_nobody_listens(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise AssertionError("rehearsed")

    monkeypatch.setattr(time_callback, "rehearse_here", failing)
    coterie.pretrain("swav", images, out=tmp_path / "quiet", quiet=True, **OPTIONS | {"seed": 1, "epochs": 1})
    coterie.pretrain("swav", images, out=tmp_path / "run", logger=NullLogger(), **OPTIONS | {"epochs": 5})
    _, texts = trained(images, tmp_path / "next", epochs=1)
    assert "of a run on" in about_time(texts)[0]  # but the next run knows


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
def test_several_processes_wait_for_nothing(images: Path, tmp_path: Path, processes: int) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "coterie",
    ]
    sizes = ["--out", str(tmp_path / "run"), "--epochs", "7", "--batch-size", "16"]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [*launch, "pretrain", "swav", str(images), *sizes, *settings]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("about ")]
    assert "of a run on" in line  # not rehearsed: after some steps
    assert "images are few" in done.stderr


def test_twenty_steps_after_the_warm_up_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(real_steps.time, "perf_counter", lambda: now)
    real = RealSteps(4, 100)
    for step in range(1, 25):
        now += 5.0 if step == 10 else 0.5 if step <= 4 else 0.25  # at step 10, something else took its time
        real.mark(100 + step)
        assert (real.typical() is None) == (step < 24)
    assert real.timed == 20
    assert real.typical() == pytest.approx(0.25)


def test_long_steps_are_timed_for_half_a_minute_and_few_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(real_steps.time, "perf_counter", lambda: now)
    real = RealSteps(4, 0)
    for step in range(1, 6):  # the warm-up ends with the second step, ten seconds after the first
        now += 12.0
        real.mark(step)
        assert (real.typical(last=False) is None) == (step < 5)
        assert (real.typical(last=True) is None) == (step < 4)
    assert real.typical() == pytest.approx(12.0)
