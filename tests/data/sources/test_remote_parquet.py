import io
import os
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources import local_cache
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.data.sources.remote_parquet import RemoteTable, open_remote_tables
from coterie.data.sources.source import label_matrix, label_notes, labels, shard_layout
from coterie.errors import BadImage, NoImages, UserError

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'coterie[remote]'")

IMAGES = [f"image {number}".encode() * 10 for number in range(30)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "copies"


def table(path: Path, **columns: object) -> str:
    """The address of a table with row groups of 10 images."""
    pq.write_table(pa.table({"image": IMAGES} | columns), path, row_group_size=10)
    return f"file://{path}"


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.glob("*") if path.is_file()]


def images(source: RemoteTable) -> list[bytes]:
    return [source[row] for row in range(len(source))]


def test_opening_copies_nothing_and_the_first_row_group_suffices_for_its_images(tmp_path, cache):
    source = RemoteTable(table(tmp_path / "x.parquet", label=["cat", "dog", None] * 10))
    assert (len(source), source.classes, labels(source)[:3].tolist()) == (30, ("cat", "dog"), [0, 1, -1])
    assert source.label(2) is None
    layout = shard_layout(source)
    assert (layout.starts.tolist(), layout.remote) == ([0, 30], True)
    assert [source[row] for row in (13, 10, 19)] == [IMAGES[row] for row in (13, 10, 19)]
    assert copies(cache) == []


def test_another_row_group_unpacks_the_whole_table(tmp_path, cache):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    assert [source[0], source[29]] == [IMAGES[0], IMAGES[29]]
    assert len(copies(cache)) == 1
    (tmp_path / "x.parquet").unlink()  # everything comes from the copy now
    assert images(source) == IMAGES
    assert images(pickle.loads(pickle.dumps(source))) == IMAGES


def test_prefetching_unpacks_the_table_before_it_is_read(tmp_path, cache):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    source.prefetch(3, 4)
    assert len(copies(cache)) == 1
    assert images(source) == IMAGES


def test_a_removed_copy_is_made_again(tmp_path, cache):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    source.prefetch(0, 30)
    (copy,) = copies(cache)
    copy.unlink()
    assert images(source) == IMAGES
    assert copies(cache) == [copy]


def test_a_copy_removed_just_before_it_is_mapped_is_made_again(tmp_path, monkeypatch):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    source.prefetch(0, 30)
    removed = []

    def find_and_remove(name: str) -> Path | None:
        copy = local_cache.find_copy(name)
        if copy is not None and not removed:
            removed.append(copy)
            copy.unlink()
        return copy

    monkeypatch.setattr("coterie.data.sources.remote_parquet.find_copy", find_and_remove)
    assert images(source) == IMAGES
    assert len(removed) == 1


def test_images_are_not_pickled(tmp_path):
    source = RemoteTable(table(tmp_path / "x.parquet", image=[bytes(10**5)] * 30))
    assert source[0] == bytes(10**5)
    assert len(pickle.dumps(source)) < 10_000


def test_without_room_for_a_copy(tmp_path, monkeypatch):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    monkeypatch.setenv("COTERIE_CACHE_GIB", "0")
    assert source[3] == IMAGES[3]  # from its row group
    with pytest.raises(UserError, match="more than COTERIE_CACHE_GIB allows"):
        source[20]


def test_a_copy_that_is_always_removed_is_reported(tmp_path, monkeypatch):
    source = RemoteTable(table(tmp_path / "x.parquet"))
    assert source[0] == IMAGES[0]
    make = local_cache.make_copy

    def make_and_remove(name: str, *arguments: object) -> bool:
        made = make(name, *arguments)
        (local_cache.cache_folder() / "copies" / name).unlink()
        return made

    monkeypatch.setattr("coterie.data.sources.remote_parquet.make_copy", make_and_remove)
    with pytest.raises(UserError, match=r"its copy is removed as soon as it is made: set COTERIE_CACHE_GIB to more"):
        source[20]


def test_a_table_that_changed_is_a_bad_image(tmp_path):
    path = tmp_path / "x.parquet"
    source = RemoteTable(table(path))
    table(path, label=[0] * 30)
    os.utime(path, (1, 1))
    with pytest.raises(BadImage, match=r"x\.parquet has changed since it was opened"):
        source.prefetch(0, 30)
    path.unlink()
    with pytest.raises(BadImage, match=r"x\.parquet no longer exists"):
        source.prefetch(0, 30)


def test_names_are_paths_or_rows(tmp_path):
    structs = [{"bytes": data, "path": f"{row}.png" if row else None} for row, data in enumerate(IMAGES)]
    source = RemoteTable(table(tmp_path / "x.parquet", image=structs))
    assert [source.name(row) for row in (0, 3)] == ["x/00000000", "3.png"]
    assert images(source) == IMAGES
    assert RemoteTable(table(tmp_path / "y.parquet")).name(4) == "y/00000004"


def test_lists_of_labels(tmp_path):
    matrix = label_matrix(RemoteTable(table(tmp_path / "x.parquet", labels=[["a", "b"], [], ["b"]] * 10)))
    assert (matrix.classes, matrix.rows[:3].tolist()) == (("a", "b"), [[True, True], [False, False], [False, True]])
    assert RemoteTable(table(tmp_path / "y.parquet")).label_matrix is None


def test_rows_without_bytes_and_beyond_the_end(tmp_path):
    source = RemoteTable(table(tmp_path / "x.parquet", image=[*IMAGES[:29], None]))
    with pytest.raises(BadImage, match="no bytes in this row of the table"):
        source[29]
    for row in (-1, 30):
        with pytest.raises(IndexError):
            source[row]


def test_tables_are_opened_in_order(tmp_path):
    urls = [table(tmp_path / f"{number}.parquet", label=[number] * 30) for number in range(3)]
    assert [each.label(0) for each in open_remote_tables(urls)] == [0, 1, 2]
    assert len(open_source(f"file://{tmp_path}/*.parquet")) == 90


def test_tables_without_rows_and_damaged_ones_are_refused(tmp_path):
    empty = table(tmp_path / "empty.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(NoImages, match=r"empty\.parquet: no rows in this table"):
        open_remote_tables([empty])
    (tmp_path / "x.parquet").write_bytes(b"no parquet" * 100)
    with pytest.raises(UserError, match=r"x\.parquet: not a readable parquet file"):
        open_remote_tables([f"file://{tmp_path}/x.parquet"])
    with pytest.raises(UserError, match="no such file in the store"):
        open_remote_tables([f"file://{tmp_path}/missing.parquet"])


def test_columns_are_chosen_as_of_a_local_table(tmp_path):
    url = table(
        tmp_path / "x.parquet", other=IMAGES[::-1], fine_label=["a", "b", "c"] * 10, coarse_label=[1, 1, 0] * 10
    )
    for column, expected in (("image", IMAGES), ("other", IMAGES[::-1])):  # each has a copy of its own
        assert images(open_source(url, columns=Columns(image=column))) == expected
    assert labels(open_source(url, columns=Columns(label="Coarse Label"))).tolist() == [1, 1, 0] * 10
    assert label_notes(open_source(url)).origin == "column 'fine_label'"
    (tmp_path / "labels.tsv").write_text("name\tlabel\n7\tz\n")
    given = open_source(url, columns=Columns(labels=f"file://{tmp_path}/labels.tsv"))
    assert (given.label(7), given.classes) == (0, ("z",))


def test_the_folder_of_a_remote_table_is_a_column(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / f"class={name}").mkdir()
        table(tmp_path / f"class={name}" / "0.parquet")
    source = open_source(f"file://{tmp_path}/*/*.parquet")
    assert (source.classes, labels(source).tolist()) == (("cat", "dog"), [0] * 30 + [1] * 30)


def test_json_labels_of_a_remote_shard(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("0.jpg", b"x"), ("0.json", b'{"label": "cat", "meta": {"size": 4}}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    url = f"file://{tmp_path}/x.tar"
    assert open_source(url).classes == ("cat",)
    assert labels(open_source(url, columns=Columns(label_key="meta.size"))).tolist() == [4]
