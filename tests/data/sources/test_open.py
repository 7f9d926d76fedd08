import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.open import open_source
from coterie.data.sources.parquet import ParquetTable
from coterie.data.sources.source import Concatenated, labels
from coterie.data.sources.tar import TarShards
from coterie.errors import NoImages, UserError
from tests.data.sources.helpers import names, write
from tests.data.store import tar


def message(*specs: str) -> str:
    """The error of opening these, which must be one line."""
    with pytest.raises(UserError) as found:
        open_source(*specs)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def test_globs_match_what_a_shell_matches(class_folder, monkeypatch):
    folder = open_source(str(class_folder))
    everything = [str(path) for path in class_folder.glob("*/*.png")]
    for specs in ([f"{class_folder}/*/*.png"], [f"{class_folder}/**/*.png"], everything, everything[::-1]):
        source = open_source(*specs)
        assert names(source) == names(folder)
        assert source.classes == folder.classes
        assert labels(source).tolist() == labels(folder).tolist()
        assert [source[index] for index in range(5)] == [folder[index] for index in range(5)]
    monkeypatch.chdir(class_folder)
    source = open_source("cat/*.png")
    monkeypatch.chdir("/")
    assert (names(source), source.classes) == (["0.png", "1.png", "2.png"], ())
    assert source[1] == folder[1]  # the working folder may change


def test_a_glob_skips_what_holds_no_images(tmp_path):
    write(tmp_path, "notes.txt", "table.csv", "a.jpg", "folder/b.jpg")
    assert names(open_source(f"{tmp_path}/*")) == ["a.jpg", "b.jpg"]
    write(tmp_path, "odd[1].jpg", data=b"literal")
    assert open_source(f"{tmp_path}/odd[1].jpg")[0] == b"literal"


def test_several_sources_are_concatenated(tmp_path):
    write(tmp_path, "one/cat/a.jpg", "one/dog/b.jpg", "two/bird/c.jpg", "two/cat/d.jpg", "three/e.jpg", "four/x/f.jpg")
    source = open_source(*(str(tmp_path / name) for name in ("one", "two", "three")), f"{tmp_path}/four/x/f.jpg")
    assert isinstance(source, Concatenated)
    assert names(source) == ["cat/a.jpg", "dog/b.jpg", "bird/c.jpg", "cat/d.jpg", "e.jpg", "f.jpg"]
    assert source.classes == ("cat", "dog", "bird")
    assert labels(source).tolist() == [0, 1, 2, 0, -1, -1]
    assert [source.label(index) for index in range(6)] == [0, 1, 2, 0, None, None]
    assert source[4] == b"x"
    for index in (-1, 6):
        with pytest.raises(IndexError):
            source[index]


def test_every_mistake_is_one_plain_line(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "utf16.txt").write_text("a.jpg\n", encoding="utf-16")
    (tmp_path / "table.csv").write_text("a,b")
    write(tmp_path, "shards/0.tar", "text/readme.md")
    assert "no such file or folder" in message(str(tmp_path / "missing"))
    assert "no such file or folder" in message(str(tmp_path / ("long" * 200)))
    assert "no image in this folder" in message(str(empty))
    assert "no image in this folder" in message(str(tmp_path / "text"))
    assert "shards/*.tar" in message(str(tmp_path / "shards"))
    assert "this list is empty" in message(str(tmp_path / "empty.txt"))
    assert "UTF-8" in message(str(tmp_path / "utf16.txt"))
    assert "no column holds paths of images; there are: a, b" in message(str(tmp_path / "table.csv"))
    assert "this pattern matches no image" in message(f"{tmp_path}/*.nothing")
    assert "give a folder" in message()
    assert "give a folder" in message("")
    for spec in (empty, tmp_path / "empty.txt", f"{tmp_path}/*.nothing"):
        with pytest.raises(NoImages):
            open_source(spec)


def test_the_kind_of_each_path_decides(tmp_path):
    write(tmp_path, "folder/a.jpg", "b.PNG")
    (tmp_path / "list.txt").write_text("folder/a.jpg\n")
    (tmp_path / "c.tar").write_bytes(tar(0, 2))
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "d.parquet")
    source = open_source(*(tmp_path / name for name in ("folder", "list.txt", "b.PNG", "c.tar", "d.parquet")))
    kinds = [type(each).__name__ for each in source.sources]
    assert kinds == ["ImageFiles", "ImageFiles", "ImageFiles", "TarShards", "ParquetTable"]
    assert names(source) == ["a.jpg", "folder/a.jpg", "b.PNG", "00000.png", "00001.png", "d/00000000"]
    assert isinstance(open_source(tmp_path / "c.tar"), TarShards)
    assert isinstance(open_source(tmp_path / "d.parquet"), ParquetTable)
    assert names(pickle.loads(pickle.dumps(source))) == names(source)


def test_neighboring_shards_are_one_source(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(tar(2 * number, 2, cls=f"{number}"))
    source = open_source(*(tmp_path / f"{number}.tar" for number in range(3)))
    assert isinstance(source, TarShards)
    assert np.array_equal(labels(source), [0, 0, 1, 1, 2, 2])


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(write(tmp_path, "pictures/a.jpg")))
    assert names(open_source("~/pictures")) == ["a.jpg"]
