"""The images of the benchmark, in parquet files: what is trained on, and what is asked.

    python benchmarks/quality/prepare.py [cifar10 steel cells patches] [--out build/quality] [--toy]

Made from ``$COTERIE_SHARED/data`` with one seed. ``SETS`` says which files a split uses; whatever is chosen is chosen on
``tuning``, and ``test`` is for published figures only.

* ``cifar10``: 1,000 training images of each class, 500 others of each to tune by, all 10,000 test images.
* ``steel``: 1,440 gray photographs of 200 pixels and the 360 test photographs; to tune by, the 1,440 halved class by class.
* ``cells``: 300 micrographs of 88 to 120 pixels, with and without labels the same; five folds are asked (``judge.py``).
* ``patches``: from each of 237 photographs 24 patches of 48 pixels and 8 to ask, from other bands of it; the label is the
  photograph. For tuning only.
"""

import argparse
import csv
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("COTERIE_SHARED", ROOT.parent / "shared"))
BUILD = ROOT / "build" / "quality"
SEED = 20240
TRAIN_PER_CLASS, TUNING_PER_CLASS = 1000, 500
TOY_CLASSES, TOY_PER_CLASS = 6, 12
PATCH, PATCHES, ASKED_PATCHES, BANDS = 48, 24, 8, 4

SETS: dict[str, dict[str, tuple[str, str | None]]] = {
    "cifar10": {"tuning": ("train", "tuning"), "test": ("train", "test")},
    "steel": {"tuning": ("tuning_train", "tuning"), "test": ("train", "test")},
    "cells": {"test": ("train", None)},
    "patches": {"tuning": ("train", "tuning")},
}
"""Of each split, the file that is trained on, whose images also vote, and the one that is asked; None: the same in folds."""


def prepare(data: str, folder: Path, toy: bool = False) -> None:
    """Write the files of a set, unless they are there."""
    names = {name for split in SETS[data].values() for name in split if name}
    if all((folder / f"{name}.parquet").exists() for name in names):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in MADE[data]().items():
        write(few(table) if toy else table, folder / f"{name}.parquet")


def cifar10() -> dict[str, pa.Table]:
    images = pq.read_table(SHARED / "data" / "cifar10" / "train.parquet")
    train, tuning = chosen(images["label"].to_numpy(), TRAIN_PER_CLASS, TUNING_PER_CLASS)
    test = pq.read_table(SHARED / "data" / "cifar10" / "test.parquet")
    return {"train": images.take(train), "tuning": images.take(tuning), "test": test}


def steel() -> dict[str, pa.Table]:
    train, test = (of_folders(SHARED / "data" / "steel" / part) for part in ("train", "test"))
    labels = train["label"].to_numpy()
    half = int(np.bincount(labels).min()) // 2
    seen, asked = chosen(labels, half, half)
    return {"train": train, "test": test, "tuning_train": train.take(seen), "tuning": train.take(asked)}


def cells() -> dict[str, pa.Table]:
    folder = SHARED / "data" / "cells"
    with (folder / "classes.csv").open() as file:
        rows = [(int(number), int(label) - 1) for number, label in list(csv.reader(file))[1:]]
    images = [(folder / "images" / f"{number:03d}.png").read_bytes() for number, _ in rows]
    return {"train": as_table(images, [label for _, label in rows])}


def patches() -> dict[str, pa.Table]:
    """Bands across the longer side take turns, so that no patch to ask shares a pixel with one to train on."""
    found: dict[str, tuple[list[bytes], list[int]]] = {"train": ([], []), "tuning": ([], [])}
    for label, path in enumerate(sorted((SHARED / "data" / "photos").glob("*.jpg"))):
        photo, generator = Image.open(path).convert("RGB"), np.random.default_rng([SEED, label])
        for (images, labels), first, count in zip(found.values(), (0, 1), (PATCHES, ASKED_PATCHES), strict=True):
            images += [patch(photo, first + 2 * (each % (BANDS // 2)), generator) for each in range(count)]
            labels += [label] * count
    return {name: as_table(*each) for name, each in found.items()}


def patch(photo: Image.Image, band: int, generator: np.random.Generator) -> bytes:
    """A random square of one band, at 48 pixels; small ones are as likely as large ones."""
    long, short = max(photo.size), min(photo.size)
    width = long // BANDS
    largest = min(width, short)
    side = round(float(np.exp(generator.uniform(np.log(min(PATCH, largest)), np.log(largest)))))
    along, across = band * width + int(generator.integers(width - side + 1)), int(generator.integers(short - side + 1))
    left, top = (along, across) if photo.width == long else (across, along)
    square = photo.crop((left, top, left + side, top + side)).resize((PATCH, PATCH), Image.Resampling.LANCZOS)
    square.save(file := BytesIO(), "JPEG", quality=95, subsampling=0)
    return file.getvalue()


MADE: dict[str, Callable[[], dict[str, pa.Table]]] = {
    "cifar10": cifar10,
    "steel": steel,
    "cells": cells,
    "patches": patches,
}


def chosen(labels: np.ndarray, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and of those to tune by: as many of each class, none in both.

    A class that has too few is divided in the same proportion.
    """
    generator = np.random.default_rng(SEED)
    train, tuning = [], []
    for label in np.unique(labels):
        mixed = generator.permutation(np.flatnonzero(labels == label))
        seen = min(first, len(mixed) * first // (first + second))
        train.append(mixed[:seen])
        tuning.append(mixed[seen : seen + second])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(tuning))


def few(table: pa.Table) -> pa.Table:
    """The first images of the first classes."""
    labels = table["label"].to_numpy()
    kept = [np.flatnonzero(labels == label)[:TOY_PER_CLASS] for label in np.unique(labels)[:TOY_CLASSES]]
    return table.take(np.sort(np.concatenate(kept)))


def of_folders(folder: Path) -> pa.Table:
    """The images of a folder with one folder per class, in the order of their names."""
    paths = sorted(folder.glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    return as_table([path.read_bytes() for path in paths], [names.index(path.parent.name) for path in paths])


def as_table(images: list[bytes], labels: list[int]) -> pa.Table:
    """The columns of CIFAR-10's files."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table(
        {"image": pa.array([{"bytes": each, "path": None} for each in images], kind), "label": pa.array(labels)}
    )


def write(table: pa.Table, path: Path) -> None:
    """Under its own name only when it is whole, so that two who prepare at once do no harm."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    pq.write_table(table, unfinished)
    unfinished.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}; else all")
    parser.add_argument("--out", type=Path, default=BUILD)
    parser.add_argument("--toy", action="store_true", help="a few images of each")
    options = parser.parse_args()
    if unknown := set(options.data) - SETS.keys():
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(SETS)}")
    for data in options.data:
        prepare(data, options.out / data, options.toy)
