"""The same images as parquet, as a folder and as tar shards are the same data set."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches


def three_ways(table: Path, folder: Path) -> list[list[Path]]:
    """The images of a parquet file as they are, as a flat folder, and as three tar shards."""
    rows = pq.read_table(table)["image"].to_pylist()
    flat = folder / "flat"
    flat.mkdir()
    for row, image in enumerate(rows):
        (flat / f"{row:06}.png").write_bytes(image["bytes"])
    shards = []
    for number in range(3):
        shards.append(folder / f"shard-{number}.tar")
        with tarfile.open(shards[-1], "w") as tar:
            for row in range(number * len(rows) // 3, (number + 1) * len(rows) // 3):
                info = tarfile.TarInfo(f"{row:06}.png")
                info.size = len(rows[row]["bytes"])
                tar.addfile(info, io.BytesIO(rows[row]["bytes"]))
    return [[table], [flat], shards]


def losses(data: list[Path], out: Path, *settings: str) -> list[float]:
    coterie.pretrain(
        "swav",
        data,
        out=out,
        epochs=1,
        batch_size=16,
        settings=("run.log_steps=1", "run.workers=1", "run.threads=1", *settings),
    )
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_identical_losses(tmp_path: Path) -> None:
    table = tmp_path / "patches.parquet"
    write_patches(table, photo_patches("train", 96, 16))
    settings = ("backbone.width=0.125", "groups.counts=[8]", "views.crops.1.size=8")
    parquet, flat, tar = (
        losses(data, tmp_path / f"run{n}", *settings) for n, data in enumerate(three_ways(table, tmp_path))
    )
    assert len(parquet) == 6
    assert parquet == flat == tar


def test_identical_losses_on_cifar10(shared: Path, tmp_path: Path) -> None:
    rows = pq.read_table(shared / "data" / "cifar10" / "train.parquet").slice(0, 64)
    pq.write_table(rows, tmp_path / "cifar.parquet")
    settings = ("backbone.width=0.125", "groups.counts=[8]")
    parquet, flat, tar = (
        losses(data, tmp_path / f"run{n}", *settings)
        for n, data in enumerate(three_ways(tmp_path / "cifar.parquet", tmp_path))
    )
    assert parquet == flat == tar
    assert parquet == pytest.approx(parquet)  # numbers, not NaN
