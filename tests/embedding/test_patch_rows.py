"""``embed --features patch|map``: the columns, arrays of NumPy, and folders of both."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import coterie
from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.embedding.embed import Embedder
from coterie.embedding.job import write_table
from coterie.embedding.open_embedder import open_embedder
from coterie.embedding.parts import TableParts
from coterie.embedding.rows import PatchRows
from coterie.errors import BadRun, UserError
from coterie.logger import NullLogger
from tests.embedding.running import BROKEN, PARTS, Made

HOW = {"workers": 0, "precision": "float32", "quiet": True}
COUNT, PART = 300, 256
KEPT = COUNT - sum(number < COUNT for number in BROKEN)


@pytest.fixture(scope="module")
def few(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same run, the first images, and the table of their embeddings."""
    folder = tmp_path_factory.mktemp("few")
    pq.write_table(pq.read_table(made.images).slice(0, COUNT), folder / "images.parquet")
    found = Made(made.run, folder / "images.parquet", folder / "table.parquet")
    assert coterie.embed(found.run, found.images, found.table, **HOW) == KEPT
    return found


def patches(path: Path) -> np.ndarray:
    return pq.read_table(path)["patches"].combine_chunks().to_numpy_ndarray().copy()


def test_patches_map_and_arrays_hold_what_the_embedding_averages(few: Made, tmp_path: Path) -> None:
    for features in ("patch", "map"):
        assert coterie.embed(few.run, few.images, tmp_path / f"{features}.parquet", features=features, **HOW) == KEPT
    assert coterie.embed(few.run, few.images, tmp_path / "map.npy", features="map", **HOW) == KEPT
    rows, maps = patches(tmp_path / "patch.parquet"), patches(tmp_path / "map.parquet")
    array = np.load(tmp_path / "map.npy")
    assert array.dtype == np.float32
    assert np.array_equal(array, maps)
    assert np.array_equal(rows, maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1))
    whole, beside = pq.read_table(few.table), pq.read_table(tmp_path / "map.npy.rows.parquet")
    assert beside.column_names == ["name", "label", "class"]
    for table in (beside, pq.read_table(tmp_path / "patch.parquet")):
        assert table.select(beside.column_names).equals(whole.select(beside.column_names))
    torch.testing.assert_close(
        torch.from_numpy(maps).mean(dim=(2, 3)), torch.from_numpy(np.stack(whole["embedding"].to_numpy()))
    )
    assert (tmp_path / "map.npy.bad.txt").read_text() == Path(f"{few.table}.bad.txt").read_text()


def test_embeddings_as_an_array(few: Made, tmp_path: Path) -> None:
    coterie.embed(few.run, few.images, tmp_path / "rows.npy", **HOW)
    whole, beside = pq.read_table(few.table), pq.read_table(tmp_path / "rows.npy.rows.parquet")
    assert np.array_equal(np.load(tmp_path / "rows.npy"), np.stack(whole["embedding"].to_numpy()))
    assert beside.equals(whole.drop_columns("embedding"))


def test_parts_with_arrays_are_completed_and_are_of_one_kind(few: Made, tmp_path: Path) -> None:
    out, asked = tmp_path / "parts", HOW | {"features": "patch", "arrays": "npy", "part_images": PART}
    assert coterie.embed(few.run, few.images, out, **asked) == KEPT
    coterie.embed(few.run, few.images, tmp_path / "one.parquet", features="patch", **HOW)
    arrays = [out / "_arrays" / part.replace(".parquet", ".npy") for part in PARTS[:2]]
    (out / PARTS[1]).unlink()  # the array alone is no part
    arrays[1].write_bytes(b"not whole")
    (out / "_arrays" / f".{arrays[1].name}.4194305.part").write_bytes(b"what a killed process left")
    assert coterie.embed(few.run, few.images, out, **asked) == KEPT
    assert np.array_equal(np.concatenate([np.load(each) for each in arrays]), patches(tmp_path / "one.parquet"))
    assert "patches" not in pq.read_table(out).column_names
    assert not list(out.rglob(".*.part"))
    described = json.loads((out / "_embedding.json").read_text())
    assert described["shape"] == [4, 64]
    assert (described["features"], described["arrays"]) == ("patch", "npy")
    for change, said in (
        ({"features": "map"}, "other features"),
        ({"arrays": "parquet"}, "another kind of file"),
        ({"features": "pooled"}, "other features"),
    ):
        with pytest.raises(BadRun, match=said):
            coterie.embed(few.run, few.images, out, **(asked | change))


@pytest.mark.parametrize(
    ("out", "change", "said"),
    [
        ("rows.csv", {}, "have lists in them, which CSV does not hold: use .parquet"),
        ("rows.npy", {"ray": "local"}, "Ray writes a folder of parts"),
    ],
)
def test_what_cannot_be_is_refused(few: Made, tmp_path: Path, out: str, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        coterie.embed(few.run, few.images, tmp_path / out, **(HOW | change))
    assert not list(tmp_path.iterdir())


def test_unknown_kinds_are_refused(few: Made, tmp_path: Path) -> None:
    source = coterie.open_source(few.images)
    with pytest.raises(
        UserError, match=r"--features is 'patches': use one of pooled, patch, map; did you mean patch\?"
    ):
        open_embedder(few.run, source, {}, "patches", Runtime())
    with pytest.raises(UserError, match="--arrays is 'numpy': use parquet or npy"):
        write_table(lambda runtime: None, tmp_path / "out", arrays="numpy", logger=NullLogger())


def test_parts_of_wide_rows_have_fewer_images_by_default(few: Made, tmp_path: Path) -> None:
    source = coterie.open_source(few.images)
    look = Preprocessing(224, 3, (0.5,) * 3, (0.5,) * 3)
    rows = PatchRows("patch", (196, 384))
    wide = TableParts(tmp_path, Embedder(torch.nn.Identity(), source, look, rows), None)
    assert wide.images == 14_080
    assert 2**32 - 256 * 196 * 384 * 4 < wide.images * 196 * 384 * 4 <= 2**32
