"""Trackers, by the real packages, read back: what they hold is the log of the run, also of one that was killed and resumed."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.logger import NullLogger
from coterie.reporting.tracking import scalars, trackers
from coterie.training.run_folder import read_log

TINY = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] "
    "run.threads=1 run.log_steps=1 run.save_steps=3 run.workers=0 run.snapshots=2"
).split()


class Killed(BaseException):
    """Not an error that a run could handle."""


class KillAt(coterie.Callback):
    """Leaves the run at once after a step, two steps after its last checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, progress: Any, result: Any) -> None:
        if progress.step == self.step:
            raise Killed


class Collect(NullLogger):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 64, 16))
    return path


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key and no settings of whoever runs the tests: offline, whatever this machine could reach."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


def train(images: Path, out: Path, **more: Any) -> Path:
    return coterie.pretrain("swav", images, out=out, epochs=2, batch_size=16, settings=TINY, probe=images, **more)


def logged(out: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for record in read_log(out):
        for name, value in scalars(record).items():
            found.setdefault(name, {})[record["step"]] = value
    return found


def in_tensorboard(out: Path) -> tuple[dict[str, list[int]], dict[str, dict[int, float]], Any]:
    """The steps of each curve in their order, its values, and a function that returns a text."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    content = accumulator.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    events = {name: content.Scalars(name) for name in content.Tags()["scalars"]}

    def text(name: str) -> str:
        return content.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()

    steps = {name: [event.step for event in each] for name, each in events.items()}
    return steps, {name: {event.step: event.value for event in each} for name, each in events.items()}, text


@pytest.mark.parametrize("tracked_from_the_start", [True, False])
def test_tensorboard_holds_the_log_of_a_resumed_run(images: Path, tmp_path: Path, tracked_from_the_start: bool) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(images, out, track="tensorboard" if tracked_from_the_start else (), callbacks=[KillAt(4)])
    train(images, out, track=["tensorboard"])
    steps, values, text = in_tensorboard(out)
    expected = logged(out)
    assert {"train/loss", "train/lr", "label_free/effective_rank", "knn/k20_t0.07_top1"} <= expected.keys()
    assert steps == {name: list(each) for name, each in expected.items()}  # each step once
    for name, curve in expected.items():
        assert values[name] == pytest.approx(curve, rel=1e-6), name
    assert "[groups]" in text("config")
    assert text("report") == str(out / "report.html")
    train(images, out, track="tensorboard")  # a finished run: nothing is added
    assert in_tensorboard(out)[0] == steps


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of an offline run: protocol buffers in the log format of LevelDB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_holds_the_log_of_a_resumed_run_under_one_id(images: Path, tmp_path: Path, no_key: None) -> None:
    pytest.importorskip("wandb")
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(images, out, track="wandb", callbacks=[KillAt(4)])
    run_id = (out / "wandb" / "run_id.txt").read_text().strip()
    train(images, out, track="wandb")
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert all(folder.name.endswith(run_id) for folder in folders)
    found: dict[str, dict[int, float]] = {}
    settings: dict[str, Any] = {}
    for record in (each for folder in folders for file in folder.glob("*.wandb") for each in wandb_records(file)):
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_id, record.run.project, record.run.display_name) == (run_id, "coterie", "run")
            settings |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
        for item in record.history.item:
            value = json.loads(item.value_json)
            name = item.key or "/".join(item.nested_key)
            if isinstance(value, float | int) and not name.startswith(("_", "report")):
                found.setdefault(name, {})[record.history.step.num] = value
    expected = logged(out)
    assert found.keys() == expected.keys()
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve), name
    assert settings["groups"]["counts"] == [8]
    assert [each for folder in folders for each in folder.glob("files/media/html/report*.html")]


def test_a_tracker_that_fails_does_not_stop_the_run(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out, logger = tmp_path / "run", Collect()
    out.mkdir()
    (out / "tensorboard").write_text("a file where its folder should be")
    assert (train(images, out, track="tensorboard", logger=logger) / "model.safetensors").exists()
    about = [text for text in logger.warnings if "TensorBoard" in text]
    assert len(about) == 1
    assert about[0].startswith("tracking with TensorBoard failed (")
    assert "the run continues" in about[0]


def test_a_tracker_breaks_on_the_way_and_is_warned_of_once(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    class Breaks(coterie.TensorBoardCallback):
        def _write(self, record: Any, present: Any = None) -> None:
            raise OSError("the disk is gone")

    logger = Collect()
    train(images, tmp_path / "run", callbacks=[Breaks()], logger=logger)
    assert [text for text in logger.warnings if "the disk is gone" in text] == [
        "tracking with TensorBoard failed (OSError: the disk is gone) and ends here; the run continues"
    ]


def test_what_is_refused_leaves_no_folder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"--track {name} needs the package .*pip install 'coterie\[{name}\]'"):
            train(images, tmp_path / "new" / "run", track=name)
    with pytest.raises(UserError, match=r"unknown tracker 'tensorbord': choose .*; did you mean tensorboard\?"):
        trackers("tensorbord")
    assert not (tmp_path / "new").exists()


def test_the_numbers_in_a_line() -> None:
    step = {"step": 3, "epoch": 0, "loss": 1.5, "groups": 8, "warning": "look out", "collapsed": False}
    assert scalars(step) == {"train/epoch": 0, "train/loss": 1.5, "train/groups": 8}
    regularized = scalars({"step": 3, "loss": 1.5, "regularization": 0.4, "regularizer_gradient": 0.14})
    assert regularized == {"train/loss": 1.5, "train/regularization": 0.4, "train/regularizer_gradient": 0.14}
    line = {"step": 3, "epoch": 0, "knn": {"top1": 50.0, "note": "x"}, "snapshot": "a", "own": 2}
    assert scalars(line) == {"knn/top1": 50.0, "own": 2}
