import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from coterie.data.decoding.decode import decode
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.files import Files, open_folder
from coterie.data.sources.names import Names
from coterie.data.sources.open import open_source
from coterie.data.sources.source import Concatenated, ImageSource, labels
from coterie.errors import BadImage, NoImages, UserError


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def write(root: Path, *paths: str, data: bytes = b"x") -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def message(*specs: str) -> str:
    """The one line that a person reads."""
    with pytest.raises(UserError) as found:
        open_source(*specs)
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def test_names_are_stored_exactly():
    given = [b"a.jpg", "\u96ea/\u00fc.png".encode(), b"\xff\xfe.jpg", b"", b"z"]
    stored = Names(iter(given))
    assert list(stored) == given
    assert [stored.raw(index) for index in range(len(given))] == given
    assert stored[1] == "\u96ea/\u00fc.png"
    assert stored[2] == r"\xff\xfe.jpg"  # can be printed and written to any file
    assert list(pickle.loads(pickle.dumps(stored))) == given
    for index in (-1, 5):
        with pytest.raises(IndexError):
            stored.raw(index)


def test_class_subfolders_are_labels(class_folder, encoded, photo):
    source = open_source(str(class_folder))
    assert isinstance(source, ImageSource)
    assert names(source) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert source.classes == ("cat", "dog")
    assert [source.label(index) for index in range(5)] == [0, 0, 0, 1, 1]
    assert labels(source).tolist() == [0, 0, 0, 1, 1]
    assert source[3] == encoded(photo(3))
    np.testing.assert_array_equal(decode(source[3]), photo(3))


def test_classes_are_sorted_by_name_though_paths_are_sorted_as_a_whole(tmp_path):
    source = open_source(str(write(tmp_path, "a/1.jpg", "a-b/1.jpg", "a/0.jpg")))
    assert names(source) == ["a-b/1.jpg", "a/0.jpg", "a/1.jpg"]
    assert source.classes == ("a", "a-b")
    assert labels(source).tolist() == [1, 0, 0]


def test_nested_class_folders(tmp_path):
    source = open_source(str(write(tmp_path, "cat/x/1.jpg", "cat/2.jpg", "dog/y/z/3.jpg")))
    assert names(source) == ["cat/2.jpg", "cat/x/1.jpg", "dog/y/z/3.jpg"]
    assert (source.classes, labels(source).tolist()) == (("cat", "dog"), [0, 0, 1])


def test_flat_and_mixed_folders_have_no_labels(tmp_path):
    write(tmp_path, "flat/b.jpg", "flat/a.jpg", "mixed/a.jpg", "mixed/cat/b.jpg")
    for folder in ("flat", "mixed"):
        source = open_source(str(tmp_path / folder))
        assert len(source) == 2
        assert source.classes == ()
        assert source.label(0) is None
        assert labels(source).tolist() == [-1, -1]


def test_the_order_is_that_of_the_bytes_of_whole_paths(tmp_path):
    given = ["B.jpg", "a/b.jpg", "a.jpg", "a-c.jpg", "10.jpg", "9.jpg", "\u00e9.jpg", "z.jpg", "a/B.jpg", "a.b/c.jpg"]
    source = open_source(str(write(tmp_path, *given)))
    assert [name.encode() for name in names(source)] == sorted(name.encode() for name in given)


def test_what_is_hidden_or_no_image_is_left_out(tmp_path):
    write(
        tmp_path,
        "a.JPG",
        "b.Jpeg",
        ".c.jpg",
        ".d/e.jpg",
        "f.txt",
        "g.json",
        "Thumbs.db",
        "h",
        "jpg",
        "i.tiff",
        "j.jpg.bak",
    )
    (tmp_path / "folder.png").mkdir()
    write(tmp_path, "folder.png/k.png")
    assert names(open_source(str(tmp_path))) == ["a.JPG", "b.Jpeg", "folder.png/k.png", "i.tiff"]


def test_names_that_are_not_ascii_or_not_utf8(tmp_path, encoded, photo):
    raw = [b"\xff\xfe broken.png", "\u96ea\U0001f600.png".encode(), b"new\nline.png"]
    for seed, name in enumerate(sorted(raw)):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(encoded(photo(seed)))
    source = open_source(str(tmp_path))
    assert [decode(source[index]).tolist() for index in range(3)] == [photo(seed).tolist() for seed in range(3)]
    assert [source.name(index).encode("utf-8") for index in range(2)] == sorted(raw)[:2]
    assert source.name(2) == r"\xff\xfe broken.png"


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path, "real/a.jpg", "outside/b.jpg")
    root = tmp_path / "real"
    (root / "self").symlink_to(root)
    (root / "deep").mkdir()
    (root / "deep" / "up").symlink_to(tmp_path / "real" / "deep")
    (root / "elsewhere").symlink_to(tmp_path / "outside")
    (root / "again.jpg").symlink_to(tmp_path / "outside" / "b.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    source = open_source(str(root))
    assert names(source) == ["a.jpg", "again.jpg", "elsewhere/b.jpg", "loop.jpg"]
    assert source[1] == b"x"
    with pytest.raises(BadImage, match="symbolic links"):
        source[3]


def test_what_goes_wrong_while_reading_is_a_bad_image(tmp_path):
    source = open_source(str(write(tmp_path, "a.jpg", "b.jpg", "c.jpg")))
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "b.jpg").mkdir()
    (tmp_path / "c.jpg").unlink()
    os.mkfifo(tmp_path / "c.jpg")
    for index, reason in enumerate(["No such file", "directory", "not an ordinary file"]):
        with pytest.raises(BadImage, match=reason):
            source[index]
    with pytest.raises(IndexError):
        source[3]


def test_a_text_list_keeps_its_order_and_is_relative_to_its_folder(class_folder, tmp_path, photo):
    path = tmp_path / "list.txt"
    absolute = class_folder / "dog" / "0.png"
    path.write_bytes(b"\xef\xbb\xbfanimals/dog/1.png\r\n\nanimals/cat/0.png\n\xff missing \xff.png\n" + bytes(absolute))
    source = open_source(str(path))
    assert names(source) == ["animals/dog/1.png", "animals/cat/0.png", r"\xff missing \xff.png", str(absolute)]
    for index, seed in ((0, 4), (1, 0), (3, 3)):
        np.testing.assert_array_equal(decode(source[index]), photo(seed))
    with pytest.raises(BadImage, match="No such file"):
        source[2]
    assert source.classes == ()


def test_a_text_list_of_class_folders_has_labels(class_folder, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("animals/dog/1.png\nanimals/cat/0.png\nanimals/dog/0.png\n")
    assert open_source(str(path)).classes == ("cat", "dog")
    assert labels(open_source(str(path))).tolist() == [1, 0, 1]
    path.write_text(f"{class_folder}/dog/1.png\n{class_folder}/cat/0.png\n")
    assert labels(open_source(str(path))).tolist() == [1, 0]
    path.write_text("animals/dog/1.png\nanimals/dog/0.png\n")
    assert open_source(str(path)).classes == ()


def test_globs_find_what_a_shell_finds(class_folder, monkeypatch):
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


def test_a_glob_leaves_out_what_holds_no_images(tmp_path):
    write(tmp_path, "notes.txt", "table.csv", "a.jpg", "folder/b.jpg")
    assert names(open_source(f"{tmp_path}/*")) == ["a.jpg", "b.jpg"]
    write(tmp_path, "odd[1].jpg", data=b"literal")
    assert open_source(f"{tmp_path}/odd[1].jpg")[0] == b"literal"


def test_several_sources_one_after_another(tmp_path):
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
    assert "no file is named" in message(str(tmp_path / "empty.txt"))
    assert "UTF-8" in message(str(tmp_path / "utf16.txt"))
    assert "not a source of images" in message(str(tmp_path / "table.csv"))
    assert "nothing that this pattern finds" in message(f"{tmp_path}/*.nothing")
    assert "give a folder" in message()
    assert "give a folder" in message("")
    for spec in (empty, tmp_path / "empty.txt", f"{tmp_path}/*.nothing"):
        with pytest.raises(NoImages):
            open_source(spec)


def test_arrays(photo):
    images = np.stack([photo(seed) for seed in range(3)])
    source = Arrays(images, labels=["dog", None, "cat"])
    assert isinstance(source, ImageSource)
    assert (source.classes, labels(source).tolist()) == (("cat", "dog"), [1, -1, 0])
    assert [source.label(index) for index in range(3)] == [1, None, 0]
    assert names(source) == ["00000000", "00000001", "00000002"]
    np.testing.assert_array_equal(decode(source[2]), photo(2))
    named = Arrays(list(images), labels=np.array([1, 0, 1]), classes=("a", "b"), names=["x", "y", "z"])
    assert (named.classes, names(named), labels(named).tolist()) == (("a", "b"), ["x", "y", "z"], [1, 0, 1])
    assert Arrays(images).classes == ()
    with pytest.raises(UserError, match="2 labels for 3 images"):
        Arrays(images, labels=[0, 1])
    with pytest.raises(NoImages):
        Arrays([])
    with pytest.raises(IndexError):
        source[-1]


def test_labels_of_a_source_of_ones_own():
    class Own:
        classes = ("even", "odd")

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> bytes:
            return b""

        def name(self, index: int) -> str:
            return str(index)

        def label(self, index: int) -> int | None:
            return None if index == 2 else index % 2

    assert labels(Own()).tolist() == [0, 1, -1]
    assert labels(Concatenated([Own(), Own()])).tolist() == [0, 1, -1, 0, 1, -1]


def test_numbers_that_are_labels(photo):
    images = [photo()] * 4
    assert Arrays(images, labels=[3, 0, -1, 3]).classes == ("0", "1", "2", "3")
    assert labels(Arrays(images, labels=[3, 0, -7, 3])).tolist() == [3, 0, -1, 3]
    assert Arrays(images, labels=[0, 2, 0, 2], classes=("a", "b")).classes == ("a", "b", "2")
    identifiers = Arrays(images, labels=[2_000_000_000, 7, 2_000_000_000, -1])
    assert (identifiers.classes, labels(identifiers).tolist()) == (("2000000000", "7"), [0, 1, 0, -1])
    assert Arrays(images, labels=[-1, -1, -1, -1]).classes == ()
    assert Arrays(images, labels=[None] * 4).label(0) is None


def test_a_folder_survives_pickling(class_folder):
    source = pickle.loads(pickle.dumps(open_folder(str(class_folder))))
    assert isinstance(source, Files)
    assert len(source[4]) > 0
    assert source.label(4) == 1
