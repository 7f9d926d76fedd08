"""Tar shards, parquet tables and lists of files: open them and read every image."""

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from coterie.data.decoding.decode import decode
from coterie.data.sources.open import open_source
from coterie.errors import BadImage
from tests.data.pictures import encoded, photo
from tests.fuzz.mutations import damaged

PICTURE = encoded(photo(0, 6, 8), "JPEG")


def _tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in [
            ("a/1.jpg", PICTURE),
            ("a/1.cls", b"7"),
            ("\u00fc" * (40 if form == tarfile.USTAR_FORMAT else 90) + ".png", PICTURE),
            ("../../etc/2.jpg", PICTURE),
        ]:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 0.5 if form == tarfile.PAX_FORMAT else 0
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("3.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, kind, target in [("4.jpg", tarfile.SYMTYPE, "a/1.jpg"), ("5.jpg", tarfile.LNKTYPE, "a/1.jpg")]:
            link.name, link.type, link.linkname = name, kind, target
            tar.addfile(link)
    return file.getvalue()


def _with_holes(options: str) -> bytes:
    """What GNU tar makes of a file with holes."""
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "1.bmp").open("wb") as file:
            for number in range(30):
                file.seek(number * 16_384)
                file.write(PICTURE)
        (Path(folder) / "2.jpg").write_bytes(PICTURE)
        command = [
            "tar",
            *options.split(),
            "--sparse",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "-cf",
            "-",
            "1.bmp",
            "2.jpg",
        ]
        made = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    return made.rstrip(b"\0") + bytes(1024)


def _with_checksums(data: bytes) -> bytes:
    """Correct the checksum of every block that looks like a tar header."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + 512])
    return bytes(blocks)


def _parquet(**options: object) -> bytes:
    rows = [{"bytes": PICTURE, "path": f"{n}.jpg"} for n in range(5)]
    file = io.BytesIO()
    pq.write_table(pa.table({"image": rows, "label": [0, 1, None, 1, 2]}), file, **options)
    return file.getvalue()


def _arrow(compression: str | None = None, *, stream: bool = True) -> bytes:
    rows = [{"bytes": PICTURE if n else None, "path": f"{n}.jpg"} for n in range(5)]
    table = pa.table({"image": rows, "label": [0, 1, None, 1, 2], "names": ["a", "b", None, "c", ""]})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    file = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return file.getvalue()


def _list() -> bytes:
    return b"1.jpg\nfolder/2.jpg\n/etc/hostname\n../x.jpg\n\xff\xfe.png\npipe\nfolder\n/dev/zero\n/proc/self/pagemap\n"


TARS = [_tar(each) for each in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
TARS += [
    _with_holes(f"--format={each}") for each in ("oldgnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1")
]
TARS += [_with_holes("--format=posix --sparse-version=1.0"), TARS[0] + TARS[1], TARS[2][:-1024] + TARS[2]]
TABLES = [
    _parquet(),
    _parquet(compression="zstd", row_group_size=2),
    _parquet(use_dictionary=False, compression="none"),
]
_STATE = b'{"_data_files": [{"filename": "data.arrow"}], "_indices_data_files": [{"filename": "data.arrow"}], "_split": null}'
INPUTS = {
    "tar": st.one_of(damaged(TARS, _with_checksums), damaged(TARS)),
    "parquet": damaged(TABLES),
    "arrow": damaged([_arrow(), _arrow("zstd"), _arrow("lz4"), _arrow(stream=False)]),
    "state": st.one_of(damaged([_STATE]), st.binary(max_size=300)),
    "list": st.one_of(damaged([_list()]), st.binary(max_size=300)),
}


def attempt(kind: str, data: bytes, folder: Path) -> None:
    """Open the source, and read and decode its images."""
    names = {
        "tar": "shard.tar",
        "parquet": "table.parquet",
        "list": "list.txt",
        "arrow": "table.arrow",
        "state": "state.json",
    }
    path = folder / names[kind]
    if kind == "list" and not (folder / "pipe").exists():
        (folder / "1.jpg").write_bytes(PICTURE)
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
    path.write_bytes(data)
    if kind == "state":
        (folder / "data.arrow").write_bytes(_arrow())
    source = open_source(str(folder if kind == "state" else path))
    for index in range(min(len(source), 50)):
        source.name(index).encode()  # a name that can be printed
        source.label(index)
        try:
            decode(source[index])
        except BadImage:
            continue
