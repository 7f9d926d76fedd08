"""kill -9 inside any callback, and the same command again: log, snapshots, weights and early stops of an undisturbed run."""

import importlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from tests.faults.running import Run, assert_same_runs, finished

EPOCHS = 3  # each ends with label-free metrics and a probe
CALLBACKS, FOLDER = "coterie.evaluation.callbacks", "coterie.training.run_folder"
MOMENTS = [
    # where, which call of it, before or after it
    (f"{CALLBACKS}.LabelFreeCallback.on_due", 2, "before"),
    (f"{CALLBACKS}.LabelFreeCallback.on_due", 3, "after"),
    (f"{CALLBACKS}.ProbeCallback.on_due", 2, "before"),
    (f"{CALLBACKS}.ProbeCallback.on_due", 2, "after"),
    ("coterie.reporting.callback.ReportCallback.on_end", 1, "before"),
    (
        f"{FOLDER}.RunFolder.write_finished_work",
        3,
        "before",
    ),  # the line of the second label-free metrics is not written
    (f"{FOLDER}.RunFolder.write_finished_work", 3, "after"),  # it is promised, and not in the log
    (f"{FOLDER}.RunFolder.write_finished_work", 7, "after"),  # the report's
]


def dying(path: str, call: int, moment: str) -> None:
    """From now on this process dies before or after the given call of a method."""
    module, owner, name = path.rsplit(".", 2)
    kind = getattr(importlib.import_module(module), owner)
    method, calls = getattr(kind, name), 0

    def wrapped(*values: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*values)
        if calls == call and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kind, name, wrapped)


def ending_early() -> None:
    """From now on label-free metrics call the run a plateau at the second snapshot."""
    module = importlib.import_module(CALLBACKS)
    module.plateau_reason = lambda records: "enough" if sum("label_free" in each for each in records) == 2 else None


def ending_and_dying(path: str, call: int, moment: str) -> None:
    ending_early()
    dying(path, call, moment)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 48, 16))
    return path


def settings(images: Path) -> list[str]:
    return [
        "memory=none", "groups.counts=[8]", f"run.snapshots={EPOCHS}", f'probe.train=["{images}"]', "probe.every_epochs=1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finished(images, out, *settings(images), epochs=EPOCHS, workers=0)
    return out


def killed_and_resumed(
    images: Path, out: Path, kill: Callable[[], None], resume: Callable[[], None] | None, *more: str
) -> str:
    chosen = [*settings(images), *more]
    status, said = Run(images, out, *chosen, epochs=EPOCHS, workers=0, before=kill).end()
    assert status == -signal.SIGKILL, said
    status, said = Run(images, out, *chosen, epochs=EPOCHS, workers=0, before=resume).end()
    assert status == 0, said
    return said


@pytest.mark.parametrize(("path", "call", "moment"), MOMENTS)
def test_killed_inside_a_callback(images: Path, whole: Path, tmp_path: Path, path: str, call: int, moment: str) -> None:
    out = tmp_path / "run"
    killed_and_resumed(images, out, partial(dying, path, call, moment), None)
    assert_same_runs(out, whole)
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("path", "call", "moment"),
    [(f"{FOLDER}.RunFolder.write_finished_work", 3, "before"), (f"{FOLDER}.RunFolder.write_finished_work", 3, "after")],
)
def test_an_early_stop_that_was_decided_is_not_lost(
    images: Path, tmp_path: Path, path: str, call: int, moment: str
) -> None:
    out, early = tmp_path / "run", "run.early_stop=true"
    Run(images, tmp_path / "whole", *settings(images), early, epochs=EPOCHS, workers=0, before=ending_early).end()
    killed_and_resumed(images, out, partial(ending_and_dying, path, call, moment), ending_early, early)
    assert_same_runs(out, tmp_path / "whole")
    said = finished(images, out, *settings(images), early, epochs=EPOCHS, workers=0)
    assert "is finished after 6 steps (enough)" in said
