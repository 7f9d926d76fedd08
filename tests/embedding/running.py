"""A tiny run or classifier, images of which some are broken, the single table of them; and the command in its own process."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import coterie
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.exporting.model import open_model

IMAGES, PART = 2_300, 512  # 4 whole parts and a short one, whose last batch is short too
PARTS = [f"part-{number:08d}.parquet" for number in range(5)]
BROKEN = (5, 600, 2_299)
SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] "
    "run.threads=1 run.workers=0 run.snapshots=0"
).split()


@dataclass(frozen=True)
class Made:
    """A run's folder, images, and the table that one process writes: of their embeddings, or of predictions by a classifier."""

    run: Path
    images: Path
    table: Path
    verb: str = "embed"

    def words(self, out: Path, *options: str) -> list[str]:
        """The command's words, with small parts where ``out`` is a folder."""
        sizes = [] if out.suffix else ["--part-images", str(PART)]
        return [self.verb, str(self.run), str(self.images), "--out", str(out), *sizes, *options]

    def started(self, out: Path, *words: str, start: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
        """Start the command in a process of its own, or by ``start``, such as torchrun."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
        return subprocess.Popen(
            [sys.executable, *start, "-m", "coterie", *self.words(out, *words)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )


def make(folder: Path) -> Made:
    """Train briefly, break some images, and embed all of them in this process."""
    few, run, made = folder / "few.parquet", folder / "run", folder / "images.parquet"
    write_patches(few, photo_patches("train", 72, 16))
    coterie.pretrain("swav", few, out=run, epochs=1, batch_size=16, settings=SETTINGS)
    write_patches(made, photo_patches("train", IMAGES, 16))
    table = pq.read_table(made)
    images = table["image"].to_pylist()
    for number in BROKEN:
        images[number]["bytes"] = b"no image"
    pq.write_table(table.set_column(0, "image", pa.array(images)), made)
    found = Made(run, made, folder / "whole.parquet")
    assert coterie.embed(run, made, found.table, workers=0) == IMAGES - len(BROKEN)
    return found


def predicting(made: Made) -> Made:
    """A classifier on the backbone of the run, and its labels of all images."""
    torch.manual_seed(0)
    folder = made.run.parent
    head = torch.nn.Linear(64, 3)
    classifier = Classifier(open_model(made.run), head, ("a,b", 'c"d', "e"), temperature=0.5, threshold=0.4)
    found = Made(
        save_classifier(folder / "classifier", classifier).parent, made.images, folder / "labels.parquet", "predict"
    )
    assert coterie.predict(found.run, found.images, found.table, workers=0) == IMAGES - len(BROKEN)
    assert len(set(pq.read_table(found.table)["label"].to_pylist())) > 1
    return found


def assert_same_rows(folder: Path, made: Made) -> None:
    """The parts together are the single table, bit by bit; nothing is left over."""
    assert sorted(path.name for path in folder.glob("*.parquet")) == PARTS
    whole, together = pq.read_table(made.table), pq.read_table(folder)
    assert together.schema.equals(whole.schema, check_metadata=True)
    assert together.equals(whole)
    assert not list(folder.glob(".*")), "something unfinished is left over"
    lists = sorted((folder / "_bad_images").iterdir())
    assert "".join(path.read_text() for path in lists) == Path(f"{made.table}.bad.txt").read_text()


def until_begun(folder: Path, process: subprocess.Popen[str], part: str, within: float = 120) -> None:
    """Wait until some rows of a part are being written; on a busy machine it may be complete before anyone looks."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and process.poll() is None:
        if list(folder.glob(f".{part}.*")) or (folder / part).exists():
            return
        time.sleep(0.001)
    process.kill()
    raise AssertionError(f"{part} was not begun: {process.communicate()}")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Values that change when a part is written anew."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.parquet")}
