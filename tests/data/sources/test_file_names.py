import pickle

import pytest

from coterie.data.sources.file_names import IMAGE_SUFFIXES, FileNames, is_image_name, printable


def test_names_are_stored_exactly():
    given = [b"a.jpg", "\u96ea/\u00fc.png".encode(), b"\xff\xfe.jpg", b"", b"z"]
    stored = FileNames(iter(given))
    assert list(stored) == given
    assert [stored.raw(index) for index in range(len(given))] == given
    assert stored[1] == "\u96ea/\u00fc.png"
    assert stored[2] == r"\xff\xfe.jpg"  # can be printed and written to any file
    assert list(pickle.loads(pickle.dumps(stored))) == given
    for index in (-1, 5):
        with pytest.raises(IndexError):
            stored.raw(index)


def test_image_names_have_a_known_suffix_and_are_not_hidden():
    for name in ("a.jpg", "a.JPG", "b.Jpeg", "folder.x/c.tar.png", ".hidden/d.webp"):
        assert is_image_name(name.encode())
    for name in ("jpg", "a.jpg.bak", "a.txt", ".a.jpg", "folder/.b.png", "c.png/"):
        assert not is_image_name(name.encode())
    assert all(is_image_name(f"x{suffix}".encode()) for suffix in IMAGE_SUFFIXES)


def test_printable_names_can_be_encoded():
    assert printable("\u96ea.jpg".encode()) == "\u96ea.jpg"
    assert printable(b"\xff\xfe.jpg").encode() == rb"\xff\xfe.jpg"


def test_names_take_8_bytes_each_beside_themselves():
    names = FileNames(f"{number:08d}.jpg".encode() for number in range(1000))
    assert len(pickle.dumps(names)) < 1000 * (12 + 8) + 500
