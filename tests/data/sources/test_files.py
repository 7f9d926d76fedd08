import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from coterie.data.decoding.decode import decode
from coterie.data.sources import files as files_module
from coterie.data.sources.files import ImageFiles, open_files, open_folder, open_list, read_file
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, labels
from coterie.errors import BadImage, NoImages, UserError
from tests.data.sources.helpers import names, write


def test_class_subfolders_are_labels(class_folder, encoded, photo):
    source = open_source(str(class_folder))
    assert isinstance(source, ImageSource)
    assert names(source) == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"]
    assert source.classes == ("cat", "dog")
    assert [source.label(index) for index in range(5)] == [0, 0, 0, 1, 1]
    assert labels(source).tolist() == [0, 0, 0, 1, 1]
    assert source[3] == encoded(photo(3))
    np.testing.assert_array_equal(decode(source[3]), photo(3))


def test_classes_are_sorted_by_name_and_images_by_whole_path(tmp_path):
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


def test_images_are_in_byte_order_of_their_paths(tmp_path):
    given = ["B.jpg", "a/b.jpg", "a.jpg", "a-c.jpg", "10.jpg", "9.jpg", "\u00e9.jpg", "z.jpg", "a/B.jpg", "a.b/c.jpg"]
    source = open_source(str(write(tmp_path, *given)))
    assert [name.encode() for name in names(source)] == sorted(name.encode() for name in given)


def test_hidden_files_and_other_files_are_skipped(tmp_path):
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
    assert names(source) == ["a.jpg", "again.jpg", "elsewhere/b.jpg"]
    assert source[1] == b"x"
    assert source.image_remarks == (f"{root}: left out: 1 link to nothing",)


def test_files_that_cannot_be_read_are_bad_images(tmp_path):
    source = open_source(str(write(tmp_path, "a.jpg", "b.jpg", "c.jpg")))
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "b.jpg").mkdir()
    (tmp_path / "c.jpg").unlink()
    os.mkfifo(tmp_path / "c.jpg")
    for index, reason in enumerate(["No such file", "directory", "not a regular file"]):
        with pytest.raises(BadImage, match=reason):
            source[index]
    with pytest.raises(IndexError):
        source[3]


def test_a_list_keeps_its_order_and_is_relative_to_its_folder(class_folder, tmp_path, photo):
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


def test_a_list_of_class_folders_has_labels(class_folder, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("animals/dog/1.png\nanimals/cat/0.png\nanimals/dog/0.png\n")
    assert open_source(str(path)).classes == ("cat", "dog")
    assert labels(open_source(str(path))).tolist() == [1, 0, 1]
    path.write_text(f"{class_folder}/dog/1.png\n{class_folder}/cat/0.png\n")
    assert labels(open_source(str(path))).tolist() == [1, 0]
    path.write_text("animals/dog/1.png\nanimals/dog/0.png\n")
    assert open_source(str(path)).classes == ()


def test_a_folder_can_be_pickled(class_folder):
    source = pickle.loads(pickle.dumps(open_folder(str(class_folder))))
    assert isinstance(source, ImageFiles)
    assert len(source[4]) > 0
    assert source.label(4) == 1


def test_files_given_one_by_one_are_sorted_and_named_below_their_common_folder(tmp_path):
    write(tmp_path, "a/x/2.jpg", "a/y/1.jpg", "a/y/0.jpg")
    source = open_files([str(tmp_path / name) for name in ("a/y/1.jpg", "a/x/2.jpg", "a/y/0.jpg")])
    assert names(source) == ["x/2.jpg", "y/0.jpg", "y/1.jpg"]
    assert (source.classes, labels(source).tolist()) == (("x", "y"), [0, 1, 1])
    assert [Path(os.fsdecode(path)) for path in source.files()] == [tmp_path / "a" / name for name in names(source)]


def test_files_above_the_limit_are_not_read(tmp_path, monkeypatch):
    path = os.fsencode(write(tmp_path, "a.jpg", data=b"12345") / "a.jpg")
    assert read_file(path) == b"12345"
    monkeypatch.setattr(files_module, "READ_LIMIT", 4)
    with pytest.raises(BadImage, match="5 bytes, more than the limit of 4 bytes per image"):
        read_file(path)


def test_folders_and_lists_without_images_are_refused(tmp_path):
    write(tmp_path, "text/readme.md", "shards/0.tar", "tables/0.parquet", "empty.txt", data=b"")
    for folder, advice in (("text", "looked for .jpg"), ("shards", r"shards/\*.tar"), ("tables", r"tables/\*.parquet")):
        with pytest.raises(NoImages, match=f"no image in this folder.*{advice}"):
            open_folder(str(tmp_path / folder))
    with pytest.raises(NoImages, match="this list is empty; write one path per line"):
        open_list(str(tmp_path / "empty.txt"))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        open_list(str(tmp_path / "missing.txt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_passed_over_and_the_root_is_refused(tmp_path):
    write(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        source = open_folder(str(tmp_path))
        assert names(source) == ["a.jpg"]
        assert "closed: cannot list this folder, passed over: Permission denied" in source.image_remarks[0]
        with pytest.raises(UserError, match="closed: cannot list this folder: Permission denied"):
            open_folder(str(tmp_path / "closed"))
    finally:
        (tmp_path / "closed").chmod(0o700)
