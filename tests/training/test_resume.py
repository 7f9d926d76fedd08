"""Whether a folder holds the run that is to be resumed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, to_toml
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.fingerprint import Fingerprint
from coterie.errors import BadRun
from coterie.training import checkpoint_io
from coterie.training.resume import check_same_run
from coterie.training.run_folder import RunFolder
from tests.matrix.cells import Cell, settings_of

IMAGES = Fingerprint.of(Arrays(np.zeros((100, 4, 4), np.uint8)))
CONFIG = from_dict(settings_of(Cell("learned", "sinkhorn", "same", "batch")))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    folder.config.write_text(to_toml(CONFIG))
    checkpoint_io.save(folder.checkpoints, {"student": {}}, 3)
    yield folder
    folder.close()


@pytest.mark.parametrize(
    "same",
    [
        CONFIG,
        replace(CONFIG, run=replace(CONFIG.run, workers=3, log_steps=7, device="cpu")),
        replace(CONFIG, views=replace(CONFIG.views, engine="gpu")),
    ],
    ids=["all", "run", "engine"],
)
def test_how_a_run_is_computed_may_change(folder: RunFolder, same: PretrainConfig) -> None:
    assert check_same_run(folder, same, 100, IMAGES) is not None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(CONFIG, seed=5), "(seed: 0 -> 5)"),
        (replace(CONFIG, projector=replace(CONFIG.projector, width=64)), "(projector.width: 32 -> 64)"),
        (replace(CONFIG, clip_grad_norm=1.0), "(clip_grad_norm: None -> 1.0)"),
        (replace(CONFIG, custom=("groups=mine.Groups",)), "custom parts (none), not (groups=mine.Groups)"),
    ],
)
def test_other_settings_are_refused(folder: RunFolder, other: PretrainConfig, message: str) -> None:
    with pytest.raises(BadRun) as raised:
        check_same_run(folder, other, 100, IMAGES)
    assert message in str(raised.value)
    assert "choose another --out" in str(raised.value)


def test_without_a_checkpoint_there_is_nothing_to_lose(folder: RunFolder) -> None:
    for _, path in checkpoint_io.list_checkpoints(folder.checkpoints):
        path.unlink()
    assert check_same_run(folder, replace(CONFIG, seed=5), 100, IMAGES) is None
