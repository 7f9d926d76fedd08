import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Iterable
from multiprocessing import Queue, get_context
from pathlib import Path

import numpy as np
import pytest

from coterie.data.decoding.decode import decode
from coterie.data.sources import tar as tar_module
from coterie.data.sources.open import open_source
from coterie.data.sources.source import labels
from coterie.data.sources.tar import TarShards
from coterie.errors import BadImage, NoImages, UserError

LONG = "folder/" * 30 + "x" * 120


def pack(path: Path, files: Iterable[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT, mtime: float = 0) -> Path:
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), mtime
            tar.addfile(member, io.BytesIO(data))
    return path


def images(source: TarShards) -> list[bytes]:
    return [source[index] for index in range(len(source))]


def names(source: TarShards) -> list[str]:
    return [source.name(index) for index in range(len(source))]


@pytest.fixture
def shards(tmp_path) -> list[str]:
    """Three shards with seven different images, the second without any."""
    first = [(f"{n:04d}.{kind}", f"{kind} {n}".encode()) for n in range(3) for kind in ("cls", "jpg", "json")]
    last = [(f"{n:04d}.png", f"png {n}".encode() * 1000) for n in range(3, 7)]
    paths = [tmp_path / f"shard-{n}.tar" for n in range(3)]
    for path, files in zip(paths, (first, [("readme.txt", b"hello")], last), strict=True):
        pack(path, files)
    return [str(path) for path in paths]


def test_images_of_several_shards_are_in_order(shards):
    source = TarShards(shards)
    assert names(source) == ["0000.jpg", "0001.jpg", "0002.jpg", "0003.png", "0004.png", "0005.png", "0006.png"]
    assert images(source) == [b"jpg 0", b"jpg 1", b"jpg 2", *(f"png {n}".encode() * 1000 for n in range(3, 7))]
    assert images(open_source(str(Path(shards[0]).parent / "*.tar"))) == images(source)
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format(form, tmp_path):
    files = [("a.jpg", b"1"), ("./b.jpg", b"22"), ("folder/c.png", b""), ("d.jpg", b"4" * 5000)]
    if form != tarfile.USTAR_FORMAT:
        files += [(f"{LONG}.jpg", b"long"), ("\u96ea \u00fc.jpg", b"snow"), ("\udcff.jpg", b"not utf-8")]
    mtime = 0.5 if form == tarfile.PAX_FORMAT else 0  # a fraction needs an extended header for each file
    source = TarShards([str(pack(tmp_path / "x.tar", files, form, mtime))])
    assert images(source) == [data for _, data in files]
    assert names(source)[:4] == ["a.jpg", "b.jpg", "folder/c.png", "d.jpg"]
    assert names(source)[4:] == (
        [] if form == tarfile.USTAR_FORMAT else [f"{LONG}.jpg", "\u96ea \u00fc.jpg", r"\xff.jpg"]
    )


def test_the_key_ends_at_the_first_dot(tmp_path):
    files = [
        ("a/1.seg.png", b"mask"),
        ("a/1.jpg", b"image"),
        ("a/1.png", b"second"),
        ("b.x/1.JPG", b"a dot in the folder"),
        ("2020.05.01.jpg", b"dots in the name"),
        ("2020.05.02.jpg", b"and again"),
        ("._3.jpg", b"hidden"),
        ("4.txt", b"text"),
    ]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    assert images(source) == [b"image", b"a dot in the folder", b"dots in the name", b"and again"]


@pytest.mark.parametrize(
    ("texts", "classes", "numbers"),
    [
        ([b"1", b" 0\n", b"3"], ("0", "1", "2", "3"), [1, 0, 3]),
        ([b"dog", b"cat", b"dog"], ("cat", "dog"), [1, 0, 1]),
        ([b"0", b"cat", b"10"], ("0", "10", "cat"), [0, 2, 1]),
        ([b"1", None, b"-1"], ("0", "1"), [1, -1, -1]),
        ([b"", None, b"cat"], ("cat",), [-1, -1, 0]),
        ([None, None, None], (), [-1, -1, -1]),
    ],
)
def test_labels(texts, classes, numbers, tmp_path):
    files = [(f"{n}.jpg", b"x") for n in range(3)]
    files += [(f"{n}.cls", text) for n, text in enumerate(texts) if text is not None]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    assert source.classes == classes
    assert labels(source).tolist() == numbers
    assert [source.label(n) for n in range(3)] == [None if number < 0 else number for number in numbers]


def test_the_same_key_in_two_shards_is_two_images(tmp_path):
    paths = [pack(tmp_path / f"{n}.tar", [("0.jpg", b"x"), ("0.cls", f"{n}".encode())]) for n in range(2)]
    assert labels(TarShards([str(path) for path in paths])).tolist() == [0, 1]


def test_links_and_folders_are_skipped(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.DIRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "d.jpg"
            tar.addfile(member)
        member = tarfile.TarInfo("d.jpg")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"d"))
    assert names(TarShards([str(tmp_path / "x.tar")])) == ["d.jpg"]


def read_all(source: TarShards, order: list[int], results: Queue) -> None:
    results.put((order, [source[index] for index in order]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_in_random_order_from_one_source(method, shards):
    source = TarShards(shards)
    expected = images(source)  # opens the descriptors before the fork
    generator = np.random.default_rng(0)
    orders = [generator.integers(0, 7, 200).tolist() for _ in range(2)]
    context = get_context(method)
    results = context.Queue()
    workers = [context.Process(target=read_all, args=(source, order, results)) for order in orders]
    for worker in workers:
        worker.start()
    for _ in workers:
        order, found = results.get(timeout=200)
        assert found == [expected[index] for index in order]
    for worker in workers:
        worker.join()
    assert images(source) == expected


def test_descriptors_are_closed_and_never_pickled(shards):
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    source = TarShards(shards)
    assert opened() == before  # lazily
    images(source)
    assert opened() == before + 2
    copy = pickle.loads(pickle.dumps(source))
    assert opened() == before + 2
    assert images(copy) == images(source)
    assert opened() == before + 4
    del source, copy
    assert opened() == before


def test_only_some_shards_are_kept_open(shards, monkeypatch):
    expected = images(TarShards(shards))
    monkeypatch.setattr(tar_module, "_KEPT_OPEN", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = TarShards(shards)
    assert images(source) == expected
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1


def test_a_shard_that_changes_during_a_run_gives_bad_images(shards):
    source = TarShards(shards)
    Path(shards[0]).unlink()
    with pytest.raises(BadImage, match="No such file"):
        source[0]
    assert source[6] == b"png 6" * 1000
    os.truncate(shards[2], 1000)
    with pytest.raises(BadImage, match="shorter"):
        source[6]


def test_every_mistake_is_one_plain_line(shards, tmp_path):
    whole = Path(shards[0]).read_bytes()
    broken = {
        "not a complete tar": [b"", b"no tar" * 500, Path(shards[2]).read_bytes()[:2000]],
        "damaged at byte": [whole[:1024] + b"\1" * 512 + whole[1536:], whole[:1224], whole[:1300]],
        "compressed": [gzip.compress(whole)],
    }
    path = tmp_path / "broken.tar"
    for reason, files in broken.items():
        for data in files:
            path.write_bytes(data)
            with pytest.raises(UserError, match=reason) as found:
                TarShards([str(path)])
            assert len(str(found.value).splitlines()) == 1
            assert str(path) in str(found.value)
    with pytest.raises(UserError, match="No such file"):
        TarShards([str(tmp_path / "missing.tar")])
    for files in ([], [("readme.txt", b"x")]):
        with pytest.raises(NoImages, match="no image in this shard"):
            TarShards([str(pack(path, files))])


def test_shards_of_a_folder_have_its_order(class_folder, tmp_path, photo):
    folder = open_source(str(class_folder))
    files = [(f"{index:08d}.png", folder[index]) for index in range(len(folder))]
    pack(tmp_path / "0.tar", files[:3])
    pack(tmp_path / "1.tar", files[3:])
    source = open_source(f"{tmp_path}/*.tar")
    for index in range(len(folder)):
        np.testing.assert_array_equal(decode(source[index]), photo(index))
