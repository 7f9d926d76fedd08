"""``images.parquet`` of a classifier: the images that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coterie.atomic import writing
from coterie.training.run_folder import IMAGES


def write_trained_images(folder: Path, columns: Mapping[str, Any]) -> None:
    """Write a row for each labeled image.

    Args:
        folder: of the classifier.
        columns: by name; ``content`` identifies an image.
    """
    with writing(folder / IMAGES) as part:
        pq.write_table(pa.table(dict(columns)), part)


def trained_contents(path: Path) -> set[str]:
    """What identifies the images that a classifier was trained on; empty where that is not known.

    Args:
        path: of the classifier: its folder or its file.
    """
    file = (path if path.is_dir() else path.parent) / IMAGES
    try:
        found = pq.read_table(file, columns=["content"]).column("content").to_pylist()
    except (OSError, pa.ArrowException, KeyError):
        return set()
    return {each for each in found if each}
