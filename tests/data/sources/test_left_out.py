import os
import shlex
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.file_names import DICOM_SUFFIXES, HEIF_SUFFIXES, IMAGE_SUFFIXES
from coterie.data.sources.left_out import ARCHIVES, LeftOut, how_to_unpack, kind_of
from coterie.data.sources.open import open_source
from coterie.data.sources.own_data import GivenData
from coterie.data.sources.source import image_remarks
from coterie.errors import NoImages, UserError
from coterie.logger import NullLogger
from tests.data.pictures import encoded, photo
from tests.data.sources.helpers import names, write


def test_kinds_are_endings():
    given = {
        b"a/B.HEIC": ".heic",
        b"x.tar.gz": ".tar.gz",
        b"IM0001": "without an ending",
        b"a.b/c": "without an ending",
    }
    given |= {b"1. Mai 2020": "without an ending", b"x.\xff": "without an ending", b"a/.b.jpg": "hidden images"}
    assert {name: kind_of(name) for name in given} == given
    left = LeftOut({f".{n}": 1 for n in range(12)} | {".heic": 40, ".txt": 3})
    assert str(left).startswith("40 .heic (install coterie[heif]), 3 .txt, 1 .0, ")
    assert str(left).endswith(" and 6 of 6 other kinds")


def test_a_folder_says_what_it_leaves_out(tmp_path):
    write(
        tmp_path,
        "a.jpg",
        "x/b.PNG",
        "x/notes.TXT",
        "x/y/more.txt",
        ".c.jpg",
        ".DS_Store",
        ".git/d.jpg",
        "IM0001",
        "e.zip",
    )
    write(tmp_path, "metadata.csv", "shards/0.tar", "f.psd", "f.jpg.bak")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    source = open_source(tmp_path)
    assert names(source) == ["a.jpg", "x/b.PNG"]
    (line,) = image_remarks(source)
    where, _, kinds = line.partition(": left out: ")
    assert where == str(tmp_path)
    assert (
        set(kinds.split(", "))
        == {
            "2 .txt",
            "1 hidden image",
            "1 hidden folder",
            "1 without an ending (if these are images",
            "name them in a .txt list)",
            "1 .zip (unpack them)",
            "1 .tar (give them by themselves)",
            "1 link to nothing and 3 of 3 other kinds",
            "1 pipe, socket or device",
        }
        or "other kinds" in kinds
    )
    (tmp_path / "metadata.csv").write_text("file_name,label\na.jpg,cat\nx/b.PNG,dog\n")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert ".csv" not in image_remarks(source)[0]
    assert image_remarks(open_source(write(tmp_path / "clean", "a.jpg", "b.jpg"))) == ()


def test_a_folder_of_tables_says_it_too(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / f"label={name}").mkdir()
        pq.write_table(pa.table({"image": [b"x"]}), tmp_path / f"label={name}" / "0.parquet")
    write(tmp_path, "label=cat/readme.md")
    source = open_source(tmp_path)
    assert (len(source), source.classes) == (2, ("cat", "dog"))
    assert image_remarks(source) == (f"{tmp_path}: left out: 1 .md",)


def test_the_line_is_told_where_a_command_opens_images(tmp_path):
    class Heard(NullLogger):
        lines: list[str] = []  # noqa: RUF012

        def warning(self, message: str) -> None:
            self.lines.append(message)

    suffix = next((each for each in (*HEIF_SUFFIXES, *DICOM_SUFFIXES) if each not in IMAGE_SUFFIXES), ".psd")
    write(tmp_path, "a.jpg", *(f"{n}{suffix}" for n in range(40)), "n.txt")
    heard = Heard()
    GivenData((f"{tmp_path}",)).open(logger=heard)
    assert len(heard.lines) == 1
    assert f"left out: 40 {suffix}" in heard.lines[0]
    assert ", 1 .txt" in heard.lines[0]
    (line,) = image_remarks(open_source(f"{tmp_path}/*"))
    assert f"{tmp_path}/*: left out: 40 {suffix}" in line


def test_a_folder_that_cannot_be_listed_is_passed_over(tmp_path):
    """One whose path is longer than the system takes, which not even root can list."""
    write(tmp_path, "a.jpg")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(24):
        os.mkdir("d" * 200, dir_fd=here)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    source = open_source(tmp_path)
    assert names(source) == ["a.jpg"]
    (line,) = image_remarks(source)
    assert "cannot list this folder, passed over: File name too long" in line


def test_hints_look_below_the_first_level(tmp_path):
    write(
        tmp_path, "one/x/y/0.tar", "two/x/0.parquet", "two/y/0.parquet", "zips/x/photos.zip", "raw/x/1.nef", data=b"PK"
    )
    cases = {"one": r"\.tar files; give them as '.*/one/x/y/\*\.tar'", "raw": r"it holds 1 \.nef"}
    cases |= {"two": r"'.*/two/\*\*/\*\.parquet'", "zips": r"1 \.zip \(.*/zips/x/\*\.zip\): unpack each with .*unzip"}
    for folder, hint in cases.items():
        with pytest.raises(NoImages, match=hint) as found:
            open_source(tmp_path / folder)
        assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])
def test_archives_are_refused_with_the_command_that_unpacks_them(ending, tmp_path, monkeypatch):
    picture = encoded(photo())
    monkeypatch.chdir(tmp_path)
    for name in (f"my photos{ending}", f"named-wrong-{ending[1:].replace('.', '-')}.tar"):
        if ending == ".zip":
            with zipfile.ZipFile(name, "w") as packed:
                packed.writestr("cat/1.png", picture)
        else:
            write(tmp_path / "in", "cat/1.png", data=picture)
            with tarfile.open(name, f"w:{ {'.tgz': 'gz'}.get(ending, ending.rpartition('.')[2]) }") as packed:
                packed.add("in/cat", "cat")
        with pytest.raises(UserError) as found:
            open_source(name)
        line = str(found.value)
        assert len(line.splitlines()) == 1
        _, _, command = line.partition("unpack it with: ")
        command, _, folder = command.partition("; then give ")
        if ending != ".zip":  # unzip is not everywhere
            subprocess.run(command, shell=True, check=True)
            assert open_source(*shlex.split(folder))[0] == picture
        else:
            assert "unzip -q" in command


def test_every_kind_of_archive_has_a_command(tmp_path):
    for ending in ARCHIVES:
        (tmp_path / f"x{ending}").write_bytes(b"")
        with pytest.raises(UserError, match=r"unpack it with: mkdir .*; then give") as found:
            open_source(tmp_path / f"x{ending}")
        assert how_to_unpack(f"{tmp_path}/x{ending}", ending) in str(found.value)


def test_tables_say_what_they_leave_out(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text("path,note\na.jpg,x\n,y\na.jpg,z\nb.jpg,w\n")
    source = open_source(tmp_path / "t.csv")
    assert names(source) == ["a.jpg", "b.jpg"]
    assert image_remarks(source) == (
        f"{tmp_path}/t.csv: left out: 1 row without a path, 1 row that names an image again",
    )
    rows = [{"bytes": None, "path": "a.jpg"}, {"bytes": b"y", "path": None}, {"bytes": None, "path": None}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert (source[0], source[1], names(source)) == (b"x", b"y", ["a.jpg", "t/00000001", "t/00000002"])
    assert image_remarks(source) == (
        f"{tmp_path}/t.parquet: 1 row holds neither an image nor a path: it counts as a bad image",
    )


@pytest.mark.parametrize("kind", ["bytes", "no bytes", "nothing of it"])
def test_a_table_of_paths_alone_is_read(kind, tmp_path):
    """As Hugging Face writes images that were given by path, and as others write the same."""
    write(tmp_path, "in/a.jpg", "in/b.jpg")
    fields = {"bytes": [("bytes", pa.binary())], "no bytes": [], "nothing of it": [("bytes", pa.null())]}[kind]
    rows = [{"bytes": None, "path": f"in/{name}.jpg"} for name in "ab"]
    images = pa.array(rows, pa.struct([*fields, ("path", pa.string())]))
    pq.write_table(pa.table({"image": images, "label": [1, 0]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert ([source[0], source[1]], names(source)) == ([b"x", b"x"], ["in/a.jpg", "in/b.jpg"])
    assert (source.classes, source.label(0)) == (("0", "1"), 1)


def test_odd_things_end_in_one_line(tmp_path):
    Path(tmp_path / "folder.jpg").mkdir()
    write(tmp_path, "empty.tar", "empty.parquet", "empty.zip", "x.heic", data=b"")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder.jpg", "empty.tar", "empty.parquet", "empty.zip", "pipe"):
        with pytest.raises(UserError) as found:
            open_source(tmp_path / name)
        assert len(str(found.value).splitlines()) == 1
    with tarfile.open(tmp_path / "outer.tar", "w") as tar:
        tar.add(tmp_path / "empty.tar", "inner.tar")
        tar.add(tmp_path / "empty.zip", "inner.zip")
    with pytest.raises(NoImages, match=r"which holds 1 \.tar \(give them by themselves\), 1 \.zip \(unpack them\)"):
        open_source(tmp_path / "outer.tar")
