"""A real run that collapses is told; the healthy preset is not."""

import json
from pathlib import Path

import pytest

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.training.monitor import Collapsed

SETTINGS = ("backbone.width=0.125", "views.crops.1.count=1", "views.crops.1.size=8", "run.log_steps=4", "run.workers=1")
COLLAPSING = ("temperature=1.0", "assignment.temperature=1.0", "groups.frozen_steps=0", "regularizer=none")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 640, 16))
    return path


def warnings(run: Path) -> list[str]:
    """Warnings of a collapse; that the features vary along few directions is another one."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["warning"] for record in records if "warning" in record and "label_free" not in record]


def train(images: Path, out: Path, *settings: str, on_collapse: str | None = None) -> Path:
    every = (*SETTINGS, *settings)
    return coterie.pretrain("swav", images, out=out, epochs=16, batch_size=64, settings=every, on_collapse=on_collapse)


@pytest.mark.slow
def test_the_healthy_preset_is_not_warned_of(images: Path, tmp_path: Path) -> None:
    assert warnings(train(images, tmp_path / "run")) == []


@pytest.mark.slow
def test_temperature_one_without_freezing_collapses_and_is_told(images: Path, tmp_path: Path) -> None:
    told = warnings(train(images, tmp_path / "run", *COLLAPSING))
    assert len(told) == 1
    assert "looks collapsed" in told[0]
    assert "assignment.temperature" in told[0]


@pytest.mark.slow
def test_it_may_be_stopped(images: Path, tmp_path: Path) -> None:
    with pytest.raises(Collapsed, match="looks collapsed"):
        train(images, tmp_path / "run", *COLLAPSING, on_collapse="stop")
