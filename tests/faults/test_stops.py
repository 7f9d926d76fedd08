"""SIGTERM, Ctrl-C or Slurm's SIGUSR1 while anything is at work: the command leaves within seconds, and nothing is lost.

The work pauses at a given point, as if it took minutes there, and the signal goes to the process group.
"""

import importlib
import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.signals import SIGNALS
from tests.faults.running import Command, Run, assert_same_runs, error_line, newest_step

ALL = os.environ.get("COTERIE_FAULTS") == "all"
EPOCHS = 2
STEPS_PER_EPOCH = 3
COMMON = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[8,8] "
    "refresh.every_epochs=1 run.threads=1 run.log_steps=3 run.snapshots=2 probe.every_epochs=1"
).split()
STUCK, SHORT, SOON = 300.0, 2.0, 120.0
PAUSES = {
    # phase: (where, at which call of it, for how many seconds, signal, a step that is saved; None: the first is not done)
    "statistics": ("coterie.data.statistics._moments", 2, STUCK, signal.SIGINT, None),
    "filling": ("coterie.grouping.memory_queue.Memory.push", 2, STUCK, signal.SIGUSR1, None),
    "first labels": ("coterie.grouping.objective.label_rows", 1, STUCK, signal.SIGTERM, None),
    "k-means": ("coterie.grouping.kmeans.group_means", 2 * 10 + 12, STUCK, signal.SIGTERM, 3),
    "labels": ("coterie.grouping.objective.label_rows", 2 + 2, STUCK, signal.SIGUSR1, 3),
    "step": ("coterie.training.loop.set_learning_rate", 5, SHORT, signal.SIGINT, 5),
    "figures": ("coterie.data.loading.center_crop.normalize", 1, STUCK, signal.SIGTERM, 3),
    "probe": ("coterie.evaluation.callbacks.probe_embeddings", 1, STUCK, signal.SIGUSR1, 3),
    "report": ("coterie.reporting.callback.report_run", 1, STUCK, signal.SIGTERM, 6),
    "save": ("coterie.training.checkpoint_io.save", 1, SHORT, signal.SIGTERM, 3),
}
CASES = [
    (phase, number) for phase, pause in PAUSES.items() for number in (SIGNALS if ALL else (pause[3],))
]  # fmt: skip


def pausing(path: str, call: int, seconds: float, mark: Path, grace: float = 1.0) -> None:
    """From now on the given call of a function pauses, and says so by a file. The command waits less than usual for it."""
    importlib.import_module("coterie.cli.leaving").GRACE_SECONDS = grace
    place, name = path.rsplit(".", 1)
    try:
        owner = importlib.import_module(place)
    except ModuleNotFoundError:  # a method
        module, kind = place.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), kind)
    function, calls = getattr(owner, name), 0

    def wrapped(*values: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            mark.touch()
            time.sleep(seconds)
        return function(*values, **named)

    setattr(owner, name, wrapped)


def until_paused(command: Command, mark: Path) -> None:
    deadline = time.monotonic() + 120
    while not mark.exists() and command.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mark.exists(), command.output()


def stopped(command: Command, mark: Path, number: signal.Signals) -> str:
    """Pause, signal, and what the command then says in one line."""
    until_paused(command, mark)
    command.signal_group(number)
    status, output = command.end(within=SOON)
    assert status == 128 + number, output
    assert command.group_is_gone(), "processes are left"
    said = error_line(output)
    assert output.count("coterie: ") == 1, output
    assert said.startswith(f"coterie: stopped by {number.name}"), output
    return said


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 48, 16))
    return path


def started(images: Path, out: Path, before: Any = None, workers: int = 1) -> Run:
    how: dict[str, Any] = {"method": "deepcluster_v2", "common": COMMON, "epochs": EPOCHS, "workers": workers}
    return Run(images, out, f'probe.train=["{images}"]', before=before, **how)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    status, output = started(images, out).end(within=300)
    assert status == 0, output
    return out


@pytest.mark.parametrize(("phase", "number"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_a_run_is_stopped_at_any_point_and_nothing_is_lost(
    images: Path, whole: Path, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    path, call, seconds, _, step = PAUSES[phase]
    out, mark = tmp_path / "run", tmp_path / "paused"
    said = stopped(started(images, out, partial(pausing, path, call, seconds, mark)), mark, number)
    if step is None:
        assert said.endswith(" before the first step: run the same command again to start")
        assert newest_step(out) == 0
    else:
        found = re.fullmatch(r".* and saved after step (\d+): run the same command again to resume", said)
        assert found, said
        assert newest_step(out) == int(found[1]) == step
    assert not list(tmp_path.rglob(".*.part"))
    status, output = started(images, out, workers=0).end(within=300)
    assert status == 0, output
    assert (f"resumes at step {step}" in output) == (step in (3, 5)), output
    assert_same_runs(out, whole)
    assert (out / "report.html").exists()


@pytest.mark.parametrize("phase", PAUSES if ALL else ["filling", "labels", "save"])
def test_a_run_is_killed_at_any_point_and_loses_what_was_not_saved(
    images: Path, whole: Path, tmp_path: Path, phase: str
) -> None:
    path, call, seconds, _, _ = PAUSES[phase]
    out, mark = tmp_path / "run", tmp_path / "paused"
    workers = int(phase == "save")  # they take five seconds to notice
    run = started(images, out, partial(pausing, path, call, seconds, mark), workers)
    until_paused(run, mark)
    run.kill()
    assert run.group_is_gone(), "processes are left"
    status, output = started(images, out, workers=0).end(within=300)
    assert status == 0, output
    assert_same_runs(out, whole)


def test_a_second_ctrl_c_ends_a_long_step_at_once(images: Path, tmp_path: Path) -> None:
    path, mark = PAUSES["step"][0], tmp_path / "paused"
    run = started(images, tmp_path / "run", partial(pausing, path, 3, STUCK, mark, grace=STUCK))
    until_paused(run, mark)
    run.signal_group(signal.SIGINT)
    time.sleep(0.5)
    run.signal_group(signal.SIGINT)
    status, output = run.end(within=SOON)
    assert status == 130, output
    assert error_line(output).startswith("coterie: stopped by SIGINT")
    assert run.group_is_gone()


COMMANDS = {
    # what, where it pauses, at which call of it
    "evaluate {run} {images}": ("coterie.data.loading.center_crop.normalize", 1),
    "evaluate {run} {images} --probes linear": ("coterie.evaluation.probes.embedding_probes.linear", 1),
    "transfer {run} one={images}": ("coterie.evaluation.probes.embedding_probes.linear", 1),
    "report {run}": ("coterie.reporting.run_report.write_report", 1),
    "embed {run} {images} --out {out}": ("coterie.data.loading.center_crop.normalize", 1),
    "plan swav {images}": ("coterie.training.profiling.rehearsal_process.json.loads", 2),
    "profile swav {images} --batch-size 16": ("coterie.training.loop.set_learning_rate", 2),
    "demo --out {out}": ("coterie.training.loop.set_learning_rate", 1),
}


@pytest.mark.parametrize("place", range(len(COMMANDS)), ids=[each.split()[0] for each in COMMANDS])
def test_every_command_ends_with_one_line(images: Path, whole: Path, tmp_path: Path, place: int) -> None:
    (words, (path, call)), number = list(COMMANDS.items())[place], SIGNALS[place % 3]
    filled = words.format(run=whole, images=images, out=tmp_path / "out").split()
    mark, before = tmp_path / "paused", {each: each.read_bytes() for each in whole.rglob("*") if each.is_file()}
    command = Command(filled, tmp_path / "said.txt", partial(pausing, path, call, STUCK, mark))
    said = stopped(command, mark, number)
    assert "run the same command again" in said
    assert not [*tmp_path.rglob(".*.part"), *whole.rglob(".*.part")]
    assert before == {each: each.read_bytes() for each in whole.rglob("*") if each.is_file() and each in before}
