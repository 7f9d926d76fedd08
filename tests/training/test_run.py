"""A run in its folder: what it writes and when, and what its errors say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.cli.demo import write_patches
from coterie.config.hardware import Runtime
from coterie.config.toml import from_dict, read_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadRun, UserError
from coterie.grouping import objective
from coterie.logger import NullLogger
from coterie.methods.resolve import resolve_run
from coterie.training import checkpoint_io
from coterie.training.monitor import NotFinite
from coterie.training.run import Run
from coterie.training.run_folder import RunFolder, read_records

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] memory=none "
    "run.threads=1 run.workers=0 run.snapshots=0 run.log_steps=1"
).split()
STEPS = 3


class Messages(NullLogger):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def info(self, text: str) -> None:
        self.texts.append(text)


Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Builds a run in one folder; all are closed at the end."""
    images = tmp_path / "patches.parquet"
    write_patches(images, photo_patches("train", 16 * STEPS, 16))
    folders: list[RunFolder] = []

    def build(logger: Messages | None = None, **options: Any) -> Run:
        for each in folders:
            each.close()
        folders[:] = [RunFolder(tmp_path / "run")]
        options = {"epochs": 1, "batch_size": 16, "settings": SETTINGS} | options
        resolved = resolve_run("swav", images, options)  # type: ignore[arg-type]
        runtime = Runtime(torch.device("cpu"), None, 0, logger or Messages())
        return Run(folders[0], resolved.source, resolved.config, runtime, reasons=resolved.reasons)

    yield build
    for each in folders:
        each.close()


def test_nothing_is_written_before_it_trains(make: Make) -> None:
    run = make()
    assert {path.name for path in run.folder.path.iterdir()} == {".lock"}
    run.train()
    assert {"config.toml", "metrics.jsonl", "model.safetensors", "run.json", "checkpoint"} <= {
        path.name for path in run.folder.path.iterdir()
    }
    assert from_dict(read_toml(run.folder.config)) == run.config
    records = read_records(run.folder.path)
    assert [line["step"] for line in records.log] == list(range(STEPS))
    assert records.facts["images"] == 16 * STEPS
    assert [path for path, _, _ in records.facts["automatic"]].count("backbone.name") == 1


def test_a_finished_run_is_left_alone(make: Make) -> None:
    first = make()
    first.train()
    (first.folder.report).write_text("page")  # a callback of the product writes it
    before = checkpoint_io.list_checkpoints(first.folder.checkpoints)
    logger = Messages()
    make(logger).train()
    assert any(
        f"is finished after {STEPS} steps: to extend it, give more than --epochs 1" in text for text in logger.texts
    )
    assert checkpoint_io.list_checkpoints(first.folder.checkpoints) == before


def test_reasons_are_logged_at_the_start_but_not_what_the_user_chose(make: Make) -> None:
    logger = Messages()
    run = make(logger)
    run.train()
    assert logger.texts[0].startswith("swav: 48 images, resnet18")
    shown = {text.split()[0] for text in logger.texts[1:]}
    assert "backbone.name" in shown
    assert not {"epochs", "batch_size", "groups.counts"} & shown


def test_another_run_is_refused_and_threads_are_kept_unless_others_are_set(make: Make) -> None:
    without = [each for each in SETTINGS if not each.startswith("run.threads")]
    make(settings=without).train()  # on one thread, as the tests are
    with pytest.raises(BadRun, match=r"other settings \(seed: 0 -> 3\)"):
        make(seed=3)
    for settings, threads in ((without, 1), ([*without, "run.threads=2"], 2)):
        torch.set_num_threads(3)
        resumed = make(settings=settings)
        resumed.train()
        assert resumed.state.threads == torch.get_num_threads() == threads
        assert from_dict(read_toml(resumed.folder.config)).run.threads == threads


def test_a_loss_that_is_not_finite_is_explained_in_a_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(predictions: torch.Tensor, *rest: Any) -> torch.Tensor:
        return predictions.sum() * float("nan")

    monkeypatch.setattr(objective, "prediction_loss", nothing)
    run = make()
    with pytest.raises(
        NotFinite, match=r"loss nan, gradient nan at step 0 are not finite.*details: .*not_finite\.json"
    ):
        run.train()
    details = json.loads((run.folder.path / "not_finite.json").read_text())
    assert (details["step"], details["loss"], len(details["images"])) == (0, "nan", 16)
    assert all(isinstance(name, str) for name in details["images"])
    assert "encoder.projector" in " ".join(details["weights"])
    assert not checkpoint_io.list_checkpoints(run.folder.checkpoints)


def test_running_out_of_memory_says_what_to_lower(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*values: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(objective, "prediction_loss", full)
    with pytest.raises(UserError, match=r"not enough memory for 16 images .*: use --set micro_batches=2"):
        make().train()
