import gzip
import io
import os
import pickle
import subprocess
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


def test_a_mask_beside_an_image_is_none_and_said(tmp_path):
    files = [
        ("a/1.seg.png", b"mask"),
        ("a/1.jpg", b"image"),
        ("a/2.seg.png", b"a mask alone"),
        ("b.x/1.JPG", b"a dot in the folder"),
        ("2020.05.01.jpg", b"dots in the name"),
        ("2020.05.02.jpg", b"and again"),
        ("._3.jpg", b"hidden"),
        ("4.txt", b"text"),
    ]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    assert images(source) == [b"image", b"a mask alone", b"a dot in the folder", b"dots in the name", b"and again"]
    assert source.image_remarks == (f"{tmp_path}/x.tar: left out: 1 hidden image, 1 .txt, 1 .seg.png",)


def test_names_that_share_a_beginning_are_images_of_their_own(tmp_path):
    files = [
        ("IMG_1.jpg", b"1"),
        ("IMG_1.edited.jpg", b"2"),
        ("IMG_1.png", b"3"),
        ("img_1.jpg", b"4"),
        ("IMG_1.json", b"{}"),
    ]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    assert images(source) == [b"1", b"2", b"3", b"4"]
    assert source.image_remarks == ()


def test_dots_in_names_do_not_mix_labels(tmp_path):
    files = [("2020.05.01.jpg", b"x"), ("2020.05.01.cls", b"cat"), ("2020.05.02.jpg", b"x"), ("2020.05.02.cls", b"dog")]
    files += [("2020.05.03.jpg", b"x"), ("7.rgb.jpg", b"x"), ("7.meta.json", b'{"label": "bird"}')]
    files += [("8.edited.jpg", b"x"), ("8.jpg", b"x"), ("8.cls", b"cow")]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    found = {source.name(n): source.label(n) for n in range(len(source))}
    shown = {name: None if label is None else source.classes[label] for name, label in found.items()}
    assert shown == {
        "2020.05.01.jpg": "cat",
        "2020.05.02.jpg": "dog",
        "2020.05.03.jpg": None,
        "7.rgb.jpg": "bird",
        "8.edited.jpg": "cow",
        "8.jpg": "cow",
    }


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


def test_links_are_what_they_lead_to_as_if_unpacked(tmp_path):
    links = [
        ("a.jpg", tarfile.SYMTYPE, "d.jpg"),
        ("b.jpg", tarfile.LNKTYPE, "./d.jpg"),  # before its target: tar refuses it, too
        ("c.jpg", tarfile.DIRTYPE, ""),
        ("e/f.jpg", tarfile.SYMTYPE, "../g.jpg"),
        ("g.jpg", tarfile.SYMTYPE, "d.jpg"),
        ("out.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
        ("pipe.jpg", tarfile.FIFOTYPE, ""),
    ]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind, target in [*links, ("d.jpg", tarfile.REGTYPE, ""), ("h.jpg", tarfile.LNKTYPE, "d.jpg")]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, int(kind == tarfile.REGTYPE)
            tar.addfile(member, io.BytesIO(b"d"))
    source = TarShards([str(tmp_path / "x.tar")])
    assert names(source) == ["d.jpg", "h.jpg", "a.jpg", "e/f.jpg", "g.jpg"]
    assert images(source) == [b"d"] * 5
    assert "3 links to what it does not hold, 1 pipe, socket or device" in source.image_remarks[0]


def test_files_of_one_name_are_images_each_with_the_label_beside_it(tmp_path):
    files = [
        ("1.jpg", b"old"),
        ("1.cls", b"0"),
        ("2.jpg", b"two"),
        ("2.cls", b"2"),
        ("./1.jpg", b"new"),
        ("1.cls", b"1"),
    ]
    files += [("2.jpg", b"two again"), ("2.jpg", b"and again")]
    source = TarShards([str(pack(tmp_path / "x.tar", files))])
    assert images(source) == [b"old", b"two", b"new", b"two again", b"and again"]
    assert labels(source).tolist() == [0, 2, 1, 2, 2]
    assert source.image_remarks == (
        f"{tmp_path}/x.tar: 3 images have the name of an earlier one; all are read, though tar would unpack only the last",
    )


@pytest.mark.parametrize("how", ["cat", "tar"])
def test_archives_one_after_another_are_read_whole(how, shards, tmp_path):
    first, second, last = (Path(shard) for shard in shards)
    if how == "cat":
        (tmp_path / "x.tar").write_bytes(first.read_bytes() + second.read_bytes() + last.read_bytes())
    else:
        (tmp_path / "x.tar").write_bytes(first.read_bytes())
        subprocess.run(["tar", "--concatenate", "-f", tmp_path / "x.tar", second, last], check=True)
    source = TarShards([str(tmp_path / "x.tar")])
    assert images(source) == images(TarShards(shards))
    again = first.read_bytes() * 2  # each has names and labels of its own
    (tmp_path / "y.tar").write_bytes(again)
    assert images(TarShards([str(tmp_path / "y.tar")])) == [b"jpg 0", b"jpg 1", b"jpg 2"] * 2
    for after in (b"not a tar archive", b"\1" * 512):
        (tmp_path / "y.tar").write_bytes(first.read_bytes() + after)
        with pytest.raises(UserError, match=f"at byte {first.stat().st_size} is no tar archive.*truncate -s"):
            TarShards([str(tmp_path / "y.tar")])


@pytest.mark.parametrize("options", ["oldgnu", "gnu", "posix 0.0", "posix 0.1", "posix 1.0"])
@pytest.mark.parametrize("runs", [0, 3, 60])  # more than 4 and 25 need further headers
def test_files_with_holes(options, runs, tmp_path):
    form, _, version = options.partition(" ")
    data = bytearray(2_000_000)
    for number in range(runs):
        data[number * 32_768 + 7 : number * 32_768 + 900] = bytes([number + 1]) * 893
    with (tmp_path / "holes.bmp").open("wb") as file:
        for start in range(0, len(data), 4096):
            if any(data[start : start + 4096]):
                file.seek(start)
                file.write(data[start : start + 4096])
        file.truncate(len(data))
    (tmp_path / "z.jpg").write_bytes(b"after it")
    command = ["tar", f"--format={form}", *([f"--sparse-version={version}"] if version else []), "--sparse"]
    subprocess.run([*command, "-cf", "x.tar", "holes.bmp", "z.jpg"], cwd=tmp_path, check=True)
    assert (tmp_path / "x.tar").stat().st_size < 500_000
    source = TarShards([str(tmp_path / "x.tar")])
    assert (names(source), images(source)) == (["holes.bmp", "z.jpg"], [bytes(data), b"after it"])


def test_labels_may_be_files_with_holes(tmp_path):
    """Some file systems report small files as such, and tar then stores them so."""
    holes = {"GNU.sparse.map": "0,3", "GNU.sparse.size": "4", "GNU.sparse.numblocks": "1", "GNU.sparse.name": "1.cls"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, more in (("GNUSparseFile.0/1.cls", b"cat", holes), ("1.jpg", b"x", {})):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(data), more
            tar.addfile(member, io.BytesIO(data))
    source = TarShards([str(tmp_path / "x.tar")])
    assert (names(source), images(source), source.classes) == (["1.jpg"], [b"x"], ("cat",))


def test_a_map_of_holes_that_does_not_fit_is_refused_by_name(tmp_path):
    (tmp_path / "holes.bmp").write_bytes(b"\1" * 4096 + bytes(100_000) + b"\1" * 4096)
    subprocess.run(
        "fallocate -d holes.bmp; tar --format=posix --sparse -cf x.tar holes.bmp", shell=True, cwd=tmp_path, check=True
    )
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole.replace(b"GNU.sparse.minor=0", b"GNU.sparse.minor=7"))
    with pytest.raises(UserError, match=r"holes\.bmp is a sparse file, and its map of holes cannot be read"):
        TarShards([str(tmp_path / "x.tar")])


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
