"""Each page of a TIFF file as an image."""

import io
import os
import pickle
import struct
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from coterie.config.options import label_columns
from coterie.data.decoding.decode import decode
from coterie.data.decoding.tiff_pages import WHOLE, copied_page, find_pages, patched_page
from coterie.data.sources.columns import Columns
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.name_matching import names_to_match
from coterie.data.sources.open import open_source
from coterie.data.sources.own_data import given_data
from coterie.data.sources.pages import Pages, file_path
from coterie.data.sources.source import ImageSource, image_remarks, label_matrix, labels, shard_layout
from coterie.embedding.cache import source_key
from coterie.errors import BadImage, UserError
from tests.data.pictures import encoded, photo
from tests.data.sources.helpers import names

ALL = Columns(pages="all")
STACK = np.random.default_rng(0).integers(0, 256, (4, 20, 30), np.uint8)


def stack(pixels: np.ndarray = STACK, **how: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "minisblack", **how})
    return file.getvalue()


def offsets(data: bytes) -> list[int]:
    return find_pages(io.BytesIO(data))


def page(data: bytes, offset: int) -> bytes:
    copied = copied_page(io.BytesIO(data), offset)
    return patched_page(data, offset) if copied is None else copied


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {"a/one.png": encoded(photo()), "a/stack.tif": stack(), "b/one.tif": stack(STACK[0])}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(data)
    return tmp_path / "data"


def pixels(source: ImageSource) -> list[np.ndarray]:
    return [decode(source[index], 1)[..., 0] for index in range(len(source))]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("wide", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"metadata": None}, {"contiguous": False}], ids=str)
def test_each_page_is_decoded_alone(order: str, wide: bool, how: dict) -> None:
    color = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 3), np.uint8)
    for expected, more in ((STACK, {}), (STACK.astype(np.uint16) * 250, {}), (color, {"photometric": "rgb"})):
        data = stack(expected, byteorder=order, bigtiff=wide, **how, **more)
        found = given_data([data, encoded(photo())]).open(ALL)
        assert len(found) == len(expected) + 1
        channels = 3 if expected.ndim == 4 else 1
        for index, page in enumerate(expected):
            np.testing.assert_array_equal(decode(found[index], channels), page.reshape(20, 30, channels))
        np.testing.assert_array_equal(decode(found[len(expected)]), decode(encoded(photo())))


def test_names_labels_and_shape_are_those_of_the_files(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(folder, columns=ALL)))
    assert names(source) == ["a/one.png", *(f"a/stack.tif#{number}" for number in (1, 2, 3, 4)), "b/one.tif"]
    assert source.classes == ("a", "b")
    assert labels(source).tolist() == [source.label(index) for index in range(6)] == [0] * 5 + [1]
    assert label_matrix(source).rows.argmax(1).tolist() == [0] * 5 + [1]
    assert shard_layout(source).starts.tolist() == [0, 6]
    np.testing.assert_array_equal(pixels(source)[1:], [*STACK, STACK[0]])
    assert names_to_match(source) == (names(source), str(folder))
    assert [file_path(source, index) is None for index in range(6)] == [False, True, True, True, True, False]
    with pytest.raises(IndexError):
        source[6]


def test_a_table_labels_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,label\na/stack.tif,x\nb/one.tif,y\n")
    source = open_source(folder, columns=Columns(labels=str(tmp_path / "labels.csv"), pages="all"))
    assert labels(source).tolist() == [-1, 0, 0, 0, 0, 1]


def test_by_default_a_line_names_the_option(folder: Path) -> None:
    source = open_source(folder)
    assert (len(source), isinstance(source, Pages)) == (3, False)
    assert [str(line) for line in image_remarks(source) if "--pages all" in line and "stack.tif has 4" in line]
    assert not image_remarks(open_source(folder, columns=ALL))
    for spec in (folder / "a" / "stack.tif", folder / "*" / "*.tif"):
        assert any("--pages all" in line for line in image_remarks(open_source(spec)))
    (folder / "a" / "stack.tif").unlink()
    assert not image_remarks(open_source(folder))
    assert not isinstance(open_source(folder, columns=ALL), Pages)


def test_another_number_of_pages_is_another_source(folder: Path) -> None:
    first, before = Fingerprint.of(open_source(folder)), open_source(folder, columns=ALL)
    fingerprint, key = Fingerprint.of(before), source_key(before)
    assert not first.same_images(fingerprint)
    assert str(first.differences(fingerprint)) == "3 images before, 6 now"
    assert fingerprint.same_images(Fingerprint.of(open_source(folder, columns=ALL)))
    assert key == source_key(open_source(folder, columns=ALL)) != source_key(open_source(folder))
    (folder / "a" / "stack.tif").write_bytes(stack(STACK[:3]))
    assert not fingerprint.same_images(Fingerprint.of(open_source(folder, columns=ALL)))


def test_pages_of_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in {"0.png": encoded(photo()), "1.tif": stack(), "1.cls": b"7"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = open_source(tmp_path / "a.tar", columns=ALL)
    assert names(source)[1:] == [f"{open_source(tmp_path / 'a.tar').name(1)}#{number}" for number in (1, 2, 3, 4)]
    assert (shard_layout(source).starts.tolist(), labels(source).tolist()) == ([0, 5], [-1, 7, 7, 7, 7])
    np.testing.assert_array_equal(pixels(source)[1:], STACK)


def test_thumbnails_and_channels_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        for page, kind in ((STACK[0, ::2, ::2], 1), (STACK[1], 0), (STACK[1, ::2, ::2], 1), (STACK[2], 2)):
            file.write(page, subfiletype=kind, metadata=None)
        file.write(STACK[3] > 9, subfiletype=4, photometric="mask", metadata=None)
    np.testing.assert_array_equal(pixels(open_source(tmp_path / "pyramid.tif", columns=ALL)), STACK[1:3])
    for name, axes, how in (
        ("z.tif", "ZYX", {"imagej": True}),
        ("c.tif", "CYX", {"imagej": True}),
        ("c.ome.tif", "CYX", {}),
    ):
        tifffile.imwrite(tmp_path / name, STACK, metadata={"axes": axes}, photometric="minisblack", **how)
    counts = [len(open_source(tmp_path / name, columns=ALL)) for name in ("z.tif", "c.tif", "c.ome.tif")]
    assert counts == [4, 1, 1]


@pytest.mark.parametrize(
    "how", [{}, {"bigtiff": True, "byteorder": ">"}, {"rowsperstrip": 7}, {"tile": (16, 16)}], ids=str
)
def test_a_page_is_a_small_file_that_is_decoded_alike(how: dict) -> None:
    for more in ({}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True}):
        data = stack(
            metadata=None, description="four pages", extratags=[(65000, 12, 3, (1.0, 2.0, 3.0), False)], **how, **more
        )
        for number, offset in enumerate(offsets(data)):
            copied = copied_page(io.BytesIO(data), offset)
            assert len(copied) < len(data) / 2
            with tifffile.TiffFile(io.BytesIO(copied)) as file:
                assert (len(file.pages), file.pages[0].tags.get(270)) == (1, None)
                assert file.pages[0].tags[65000].value == (1.0, 2.0, 3.0)
            for alike in (copied, patched_page(data, offset)):
                np.testing.assert_array_equal(decode(alike, 1)[..., 0], STACK[number])


def test_what_cannot_be_copied_is_read_with_its_file() -> None:
    data = stack(metadata=None)
    last = offsets(data)[3]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        counts, compression = (file.pages[3].tags[name].valueoffset for name in (279, 259))
    for place, value in ((counts, 0), (counts, 2**31), (compression, 6)):
        changed = bytearray(data)
        struct.pack_into("<H" if place == compression else "<I", changed, place, value)
        assert copied_page(io.BytesIO(changed), last) is None
        assert len(patched_page(bytes(changed), last)) == len(data)


def test_frames_of_pillow_are_pages() -> None:
    file, pictures = io.BytesIO(), [Image.fromarray(page) for page in STACK]
    pictures[0].save(file, "TIFF", save_all=True, append_images=pictures[1:])
    np.testing.assert_array_equal(pixels(given_data([file.getvalue()]).open(ALL)), STACK)


def test_damaged_chains_end_in_bad_images() -> None:
    data = bytearray(stack(metadata=None, byteorder="<"))
    found = offsets(bytes(data))
    link = found[2] + 2 + 12 * struct.unpack_from("<H", data, found[2])[0]
    for target, pages in (
        (found[0], [WHOLE]),
        (2**31, [*found[:3], 2**31]),
        (len(data) - 1, [*found[:3], len(data) - 1]),
    ):
        struct.pack_into("<I", data, link, target)
        assert offsets(bytes(data)) == pages
        source = given_data([bytes(data)], "x").open(ALL) if pages != [WHOLE] else [bytes(data)]
        with pytest.raises(BadImage, match="form a circle" if pages == [WHOLE] else "no page at byte"):
            decode(source[len(pages) - 1])
    struct.pack_into("<I", data, link, 0)
    assert offsets(bytes(data)) == found[:3]


def test_no_file_takes_long_or_fails() -> None:
    random, whole = np.random.default_rng(0), [stack(), stack(bigtiff=True, byteorder=">"), stack(metadata=None)]
    for number in range(100):
        data = bytearray(whole[number % 3][: random.integers(1, 6000) if number % 2 else None])
        for place in random.integers(0, min(len(data), 600), 8).tolist():
            data[place] = random.integers(256)
        for offset in offsets(bytes(data)):
            with suppress(BadImage):
                decode(bytes(data) if offset == WHOLE else page(bytes(data), offset))


def test_what_cannot_be_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"--pages is some: choose first or all"):
        label_columns({"pages": "some"})
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "a" / "stack.tif")
    with pytest.raises(UserError, match="--pages all reads every image to count its pages"):
        open_source(f"file://{tmp_path}/a.tar", columns=ALL)
    os.mkfifo(folder / "b" / "pipe.tif")
    (tmp_path / "list.txt").write_text("data/b/pipe.tif\ndata/b/none.tif\ndata/a/stack.tif\n")
    assert len(open_source(tmp_path / "list.txt", columns=ALL)) == 6
