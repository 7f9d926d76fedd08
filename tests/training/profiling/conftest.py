from pathlib import Path

import pytest

from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from tests.cli.conftest import call as call

TINY = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 run.threads=1 run.workers=1"
).split()
IMAGES = 80  # five batches of 16


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", IMAGES, 16))
    return path
