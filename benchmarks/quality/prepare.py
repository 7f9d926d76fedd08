"""The images of the benchmark: 10,000 to train on, and two sets of questions.

    python benchmarks/quality/prepare.py [--out build/quality]

Writes ``train.parquet`` (1,000 training images of each class), ``tuning.parquet`` (500 OTHER training images of each class, for
every choice that is made) and ``test.parquet`` (all 10,000 test images, for the published figures only).
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("COTERIE_SHARED", ROOT.parent / "shared"))
DATA = ROOT / "build" / "quality"
SEED = 20240
TRAIN_PER_CLASS, TUNING_PER_CLASS = 1000, 500
SPLITS = ("train", "tuning", "test")


def prepare(out: Path) -> None:
    """Write the three files, unless they are there."""
    if all((out / f"{split}.parquet").exists() for split in SPLITS):
        return
    out.mkdir(parents=True, exist_ok=True)
    images = pq.read_table(SHARED / "data" / "cifar10" / "train.parquet")
    train, tuning = chosen(images["label"].to_numpy())
    write(images.take(train), out / "train.parquet")
    write(images.take(tuning), out / "tuning.parquet")
    write(pq.read_table(SHARED / "data" / "cifar10" / "test.parquet"), out / "test.parquet")


def chosen(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and of those to tune by: as many of each class, none in both."""
    generator = np.random.default_rng(SEED)
    train, tuning = [], []
    for label in np.unique(labels):
        mixed = generator.permutation(np.flatnonzero(labels == label))
        train.append(mixed[:TRAIN_PER_CLASS])
        tuning.append(mixed[TRAIN_PER_CLASS : TRAIN_PER_CLASS + TUNING_PER_CLASS])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(tuning))


def write(table: pa.Table, path: Path) -> None:
    """Under its own name only when it is whole, so that two who prepare at once do no harm."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    pq.write_table(table, unfinished)
    unfinished.replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA)
    prepare(parser.parse_args().out)
