"""A run read back from its folder; damaged checkpoints are skipped with a remark."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadRun
from coterie.training import checkpoint_io
from coterie.training.loaded_run import load_run

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] memory=none "
    "run.threads=1 run.workers=0 run.snapshots=0 run.save_steps=2"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_patches(folder / "patches.parquet", photo_patches("train", 48, 16))
    return coterie.pretrain(
        "swav", folder / "patches.parquet", out=folder / "run", epochs=1, batch_size=16, settings=SETTINGS
    )


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_student_settings_and_preprocessing(run: Path) -> None:
    loaded = load_run(run)
    assert (loaded.folder, loaded.config.method, loaded.images, loaded.remarks) == (run, "swav", 48, ())
    assert not loaded.student.training
    weights = safetensors.torch.load_file(run / "model.safetensors")
    mine = loaded.student.encoder.backbone.state_dict()
    assert weights.keys() == mine.keys()
    assert all(torch.equal(weights[name], mine[name]) for name in weights)
    how = loaded.preprocessing
    assert (how.size, how.channels, how.mean) == (16, 3, loaded.config.views.mean)
    rows = loaded.student.encoder.backbone(torch.zeros(2, 3, 16, 16))
    groups, probabilities = loaded.nearest_groups(rows)
    assert rows.shape == (2, 64)
    assert set(groups.tolist()) <= set(range(8))
    assert 1 / 8 <= probabilities.min() <= 1


def test_a_damaged_newest_checkpoint_is_skipped(copied: Path) -> None:
    (_, newest), (_, before) = checkpoint_io.list_checkpoints(copied / "checkpoint")
    newest.write_bytes(newest.read_bytes()[:-100])
    loaded = load_run(copied)
    (remark,) = loaded.remarks
    assert remark == f"{newest.name} is damaged (its checksum differs) and is skipped"
    assert newest.exists()  # reading changes nothing
    expected = torch.load(before, weights_only=True)["student"]
    assert all(torch.equal(each, expected[name]) for name, each in loaded.student.state_dict().items())


def test_what_is_no_run(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=r"is not a run's folder: it has no config\.toml"):
        load_run(tmp_path)
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("width = 0.125", "width = 0.25"))
    with pytest.raises(BadRun, match="does not fit"):
        load_run(copied)
    for _, path in checkpoint_io.list_checkpoints(copied / "checkpoint"):
        path.unlink()
    with pytest.raises(BadRun, match="is a run that has not been saved yet"):
        load_run(copied)
