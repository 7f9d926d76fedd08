import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from coterie.data.sources.tar_headers import members
from coterie.data.sources.tar_index import read_index
from coterie.errors import UserError
from tests.fuzz.archives import _with_checksums

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "folder/" * 20 + "x" * 90


def packed(names: list[str], form: int, mtime: float = 0, **header: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers=header or None) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = 300 * number, mtime + number, "somebody"
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return file.getvalue()


def by_tarfile(data: bytes) -> list[tuple[bytes, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        members = [member for member in tar if member.isreg()]
    return [(each.name.encode("utf-8", "surrogateescape"), each.offset_data, each.size) for each in members]


def read(path: Path, data: bytes) -> tuple[list[tuple[bytes, int, int]], int]:
    """The regular files, and how many headers tarfile read."""
    path.write_bytes(data)
    tarfile_reads = 0

    class Counting(tarfile.TarFile):
        def next(self) -> tarfile.TarInfo | None:
            nonlocal tarfile_reads
            tarfile_reads += 1
            return super().next()

    with path.open("rb") as file, Counting.open(fileobj=file, mode="r:") as tar:
        found = [each[:3] for each in members(tar, file.fileno()) if each[3] is None]
        assert found == by_tarfile(data)
        return found, tarfile_reads


@pytest.mark.parametrize(
    ("form", "mtime"), [("ustar", 0), ("gnu", 1.7e9), ("pax", 1.7e9), ("pax", 0.5), ("pax", -0.25)]
)
def test_common_headers_are_not_read_by_tarfile(form, mtime, tmp_path):
    names = [f"{number:03d}.{kind}" for number in range(50) for kind in ("jpg", "cls")]
    found, tarfile_reads = read(tmp_path / "x.tar", packed(names, FORMS[form], mtime))
    assert [name.decode() for name, *_ in found] == names
    assert tarfile_reads == 3  # to open it, the first file, and the end


@pytest.mark.parametrize("form", FORMS)
def test_all_other_headers_are_read_by_tarfile(form, tmp_path):
    names = ["a", "b" * 100, "c" * 99, "./d", "e/", "\u00fc.jpg"] * 2
    if form != "ustar":
        names += [LONG, "f", "\u00fc" * 60, LONG, "g"]
    found, tarfile_reads = read(tmp_path / "x.tar", packed(names, FORMS[form], 0.5 if form == "pax" else 0))
    assert len(found) == len(names)
    assert tarfile_reads < len(names)


@pytest.mark.parametrize("options", ["gnu", "oldgnu", "posix", "ustar", "v7"])
def test_archives_written_by_tar(options, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.jpg").write_bytes(bytes(700 * number))
    (folder / "link.jpg").symlink_to("01.jpg")
    command = ["tar", f"--format={options}", "--sort=name", "-cf", tmp_path / "made.tar", "-C", folder, "."]
    subprocess.run(command, check=True)
    found, tarfile_reads = read(tmp_path / "x.tar", (tmp_path / "made.tar").read_bytes())
    assert len(found) == 20
    assert tarfile_reads == (24 if options == "v7" else 4)  # to open it, the folder, the link, and the end


def test_global_headers_are_respected(tmp_path):
    found, _ = read(tmp_path / "x.tar", packed(["a", "b", "c"], tarfile.PAX_FORMAT, comment="x"))
    assert [name for name, *_ in found] == [b"a", b"b", b"c"]
    found, _ = read(tmp_path / "x.tar", packed(["a", "b", "c"], tarfile.PAX_FORMAT, path="other.jpg"))
    assert {name for name, *_ in found} == {b"other.jpg"}


@pytest.mark.parametrize("record", [b"13 path=00.5\n", b"00 mtime=0.5\n", b"13 size=0.50\n", bytes(13)])
def test_extended_headers_with_more_than_times_are_read_by_tarfile(record, tmp_path, monkeypatch):
    whole = packed(["a.jpg", "b.jpg"], tarfile.PAX_FORMAT, 0.5)
    place = whole.index(b"13 mtime=1.5\n")
    (tmp_path / "x.tar").write_bytes(whole[:place] + record + whole[place + 13 :])
    fast = indexed(tmp_path / "x.tar")
    monkeypatch.setattr("coterie.data.sources.tar_headers._common_file", lambda *_: None)
    assert fast == indexed(tmp_path / "x.tar")


def indexed(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return read_index(file, "x").to_pylist()
    except UserError as error:
        return str(error)


def test_damaged_headers_have_the_same_outcome_as_with_tarfile(tmp_path, monkeypatch):
    """Random bytes in headers, with corrected checksums and without: the same files, or the same error."""
    rng, path, refused = random.Random(0), tmp_path / "x.tar", 0
    names = [f"d/{number}.{kind}" for number in range(3) for kind in ("jpg", "cls")]
    whole = [packed(names, form, 0.5 if form == tarfile.PAX_FORMAT else 0) for form in FORMS.values()]
    whole = [data[: data.rindex(b"ustar") // 512 * 512 + 5 * 512] for data in whole]
    edges = (0, 1, 99, 100, 107, 124, 134, 135, 147, 148, 153, 155, 156, 257, 262, 263, 264, 329, 345)
    places = [*edges, *range(512, 545)]
    for _ in range(1500):
        data = bytearray(rng.choice(whole))
        headers = [start for start in range(0, len(data) - 511, 512) if data[start + 257 : start + 262] == b"ustar"]
        for _ in range(rng.choice([1, 1, 2])):
            place = min(len(data) - 1, rng.choice(headers) + rng.choice([rng.choice(places), rng.randrange(512)]))
            data[place] = rng.choice([0, 32, 46, 48, 49, 55, 56, 0x80, 0xFF, 53, 103, 120, 76, 83, 10])
        path.write_bytes(_with_checksums(bytes(data)) if rng.random() < 0.8 else data)
        fast = indexed(path)
        with monkeypatch.context() as patch:
            patch.setattr("coterie.data.sources.tar_headers._common_file", lambda *_: None)
            slow = indexed(path)
        assert fast == slow
        refused += isinstance(fast, str)
    assert 300 < refused < 1200


def test_extended_headers_of_an_absurd_size_are_refused(tmp_path):
    plain = packed(["a.jpg"], tarfile.PAX_FORMAT, 0.5)
    for size in (b"\x80" + bytes(3) + b"\x7f" + bytes(7), b"77777777777\0"):
        (tmp_path / "x.tar").write_bytes(_with_checksums(plain[:124] + size + plain[136:]))
        with (tmp_path / "x.tar").open("rb") as file, pytest.raises(UserError, match="not a complete tar archive"):
            read_index(file, "x.tar")
