"""The identity of a source: its images, not the spelling of a path."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.arrays import Arrays
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import absolute, open_source
from tests.data.sources.helpers import pack, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data", "a/1.png", "a/2.png", "b/1.png")


def of(*specs: object) -> Fingerprint:
    found = Fingerprint.of(open_source(*map(str, specs)))
    assert found is not None
    return found


def test_spellings_of_one_folder_are_the_same_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder.parent / "link").symlink_to(folder)
    base = of(folder)
    for spelling in ("data", "data/", "./data", "../" + folder.parent.name + "/data", "~/data", "link", "data/*/*.png"):
        assert base.same_images(of(spelling)), spelling


def test_the_same_files_elsewhere_are_the_same_images(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "staged")
    here, there = of(folder), of(tmp_path / "staged")
    assert here.same_images(there)
    assert here.key == there.key
    assert here.moved(there)
    assert not here.moved(of(folder))


@pytest.mark.parametrize("style", ["relative", "absolute"])
def test_a_list_is_what_it_names(folder: Path, tmp_path: Path, style: str) -> None:
    def listed(root: Path) -> Path:
        names = [root / name if style == "absolute" else name for name in ("b/1.png", "a/1.png")]
        (root / "list.txt").write_text("".join(f"{name}\n" for name in names))
        return root / "list.txt"

    here = of(listed(folder))
    shutil.copytree(folder, tmp_path / "staged")
    assert here.same_images(of(listed(tmp_path / "staged")))
    (folder / "list.txt").write_text("a/1.png\nb/1.png\n")
    other = of(folder / "list.txt")
    assert not here.same_images(other)
    assert str(here.differences(other)) == "the same files in another order"


def test_tables_and_shards_are_known_by_name_and_size(folder: Path, tmp_path: Path) -> None:
    for root in (tmp_path / "one", tmp_path / "two"):
        root.mkdir()
        for name in ("x", "y"):
            pq.write_table(pa.table({"image": [b"1", b"2"]}), root / f"{name}.parquet")
            pack(root / f"{name}.tar", 3)
    for suffix in ("parquet", "tar"):
        one, two = (of(tmp_path / root / f"*.{suffix}") for root in ("one", "two"))
        assert one.same_images(two), suffix
    pq.write_table(pa.table({"image": [b"1", b"longer"]}), tmp_path / "two/y.parquet")
    one, two = (of(tmp_path / root / "*.parquet") for root in ("one", "two"))
    assert str(one.differences(two)) == "1 changed (such as y.parquet)"


def test_several_sources_count_in_their_order(folder: Path) -> None:
    a, b = folder / "a", folder / "b"
    both = of(a, b)
    assert both.images == 3
    assert both.same_images(of(a, b))
    assert not both.same_images(of(b, a))
    assert str(both.differences(of(a, b, folder))) == "3 added (such as a/1.png)"


def test_what_was_added_removed_and_changed_is_counted(folder: Path) -> None:
    before = of(folder)
    write(folder, "a/0.png", "c/1.png")
    (folder / "a/2.png").unlink()
    (folder / "b/1.png").write_bytes(b"other")
    found = before.differences(of(folder))
    assert (found.added, found.removed, found.changed) == (("a/0.png", "c/1.png"), ("a/2.png",), ("b/1.png",))
    assert str(found) == "2 added (such as a/0.png), 1 removed (such as a/2.png), 1 changed (such as b/1.png)"


def test_a_pattern_whose_root_moves_up_has_only_new_files(folder: Path) -> None:
    shutil.move(folder / "b", folder.parent / "b")
    before = of(folder / "*/*.png")
    shutil.move(folder.parent / "b", folder / "b")
    assert str(before.differences(of(folder / "*/*.png"))) == "1 added (such as " + str(folder / "b/1.png") + ")"


def test_written_and_read(folder: Path, tmp_path: Path) -> None:
    (folder / "a/2.png").rename(folder / "a" / "new\nline \udcff.png")
    known = of(folder)
    known.write(tmp_path / "images.parquet")
    read = Fingerprint.read(tmp_path / "images.parquet")
    assert read is not None
    assert read.same_images(known)
    assert read.key == known.key != of(folder / "b").key
    assert read.images == 3
    (tmp_path / "images.parquet").write_bytes(b"damaged")
    assert Fingerprint.read(tmp_path / "images.parquet") is None
    assert Fingerprint.read(tmp_path / "missing.parquet") is None


def test_sources_without_files_are_known_by_some_of_their_items() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 3), np.uint8)
    first = Fingerprint.of(Arrays(pixels))
    assert len(first.files) == 64
    assert first.same_images(Fingerprint.of(Arrays(list(pixels))))
    fewer = Fingerprint.of(Arrays(pixels[:-1]))
    assert not first.same_images(fewer)
    assert str(first.differences(fewer)) == "500 images before, 499 now"
    changed = Fingerprint.of(Arrays(pixels ^ 1))
    assert first.key != changed.key
    assert len(first.differences(changed).changed) == 64


def test_absolute_specs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("x/") == str(tmp_path / "x")
    assert absolute("~/x/*.png") == "/home/me/x/*.png"
    assert absolute("s3://bucket/x") == "s3://bucket/x"


def test_the_key_of_a_folder_is_that_of_earlier_versions(tmp_path: Path) -> None:
    """Taken before folders were listed in another way: a resumed run and a folder of parts compare theirs with it."""
    given = [
        "a/0.png",
        "a-b/1.png",
        "cat/2.JPG",
        "cat/x/3.png",
        "cat/1.jpg",
        "\u00e9/\u00fc.png",
        ".hid/a.png",
        "t/.c.jpg",
        "n.txt",
    ]
    for size, name in enumerate(given):
        write(tmp_path / "f", name, data=b"x" * size)
    names = ["f/cat/1.jpg", "f/missing.jpg", f"{tmp_path}/f/a/0.png"]
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    assert of(tmp_path / "f").key == "64ad3adae7021acc"
    assert of(tmp_path / "f", tmp_path / "f" / "cat").key == "e6d15f43858b9d03"
    rows = of(tmp_path / "list.txt").files.to_pylist()
    assert [(row["name"], row["size"]) for row in rows] == [
        (b"f/cat/1.jpg", 4),
        (b"f/missing.jpg", -1),
        (f"{tmp_path}/f/a/0.png".encode()[1:], 0),
    ]
