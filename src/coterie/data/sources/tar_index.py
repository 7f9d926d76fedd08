"""Where the images of a tar shard lie: read from its headers once, kept in the cache folder, and mapped by every process."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from coterie.atomic import writing
from coterie.data.sources.local_cache import cache_folder
from coterie.data.sources.names import is_image_name
from coterie.data.sources.tar_headers import ordinary_files
from coterie.errors import UserError

WORTH_KEEPING = 1000
"""The index of fewer images is not written down: their headers are read in 20 ms."""
_FORM = "1"  # goes into the name of what is written, and changes with what it means
_LABEL_LIMIT = 1024  # bytes of a .cls file
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_SCHEMA = pa.schema(
    [("name", pa.large_binary()), ("offset", pa.int64()), ("size", pa.int64()), ("label", pa.large_string())]
)


def kept_index(key: str) -> pa.RecordBatch | None:
    """The index that was written down under this key, mapped: name, offset, size and label of each image.

    None: there is none, or it cannot be read.
    """
    try:
        with pa.memory_map(str(_path(key))) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowException):
        return None
    return batch if batch.schema.equals(_SCHEMA) else None


def read_index(file: IO[bytes], path: str) -> pa.RecordBatch:
    """The index of a shard from its headers.

    Args:
        file: the shard, opened.
        path: its name for people.

    Raises:
        UserError: it is compressed, cut short or no tar archive.
    """
    rows = list(_images(file, path))
    return pa.record_batch([list(column) for column in zip(*rows, strict=True)] or [[]] * 4, schema=_SCHEMA)


def keep_index(key: str, batch: pa.RecordBatch) -> bool:
    """Write an index down under this key, if that is worth it; False: it is not, or there is no place for it."""
    if len(batch) < WORTH_KEEPING:
        return False
    try:
        with writing(_path(key)) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(batch)
    except UserError:
        return False
    return True


def _path(key: str) -> Path:
    return cache_folder() / "index" / key[:2] / f"{key}.{_FORM}.arrow"


def _images(file: IO[bytes], path: str) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset, size and label of the images of one shard, in its order."""
    images: list[tuple[bytes, bytes, int, int]] = []  # key, name, offset, size
    plain: dict[bytes, bytes] = {}  # from the key to the name of its image
    labels: dict[bytes, str] = {}
    for name, offset, size, label in _members(file, path):
        folder, slash, last = name.rpartition(b"/")
        stem, _, field = last.partition(b".")
        key = folder + slash + stem
        if label is not None:
            labels[key] = label
        else:
            images.append((key, name, offset, size))
            if b"." not in field:
                plain.setdefault(key, name)
    for key, name, offset, size in images:
        if plain.get(key, name) == name:
            yield name, offset, size, labels.get(key)


def _members(file: IO[bytes], path: str) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset and size of the images of one shard, and of its label files with their text; links are left out."""
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            for name, offset, size in ordinary_files(tar, file.fileno()):
                name = name.removeprefix(b"./")
                if is_image_name(name):
                    yield name, offset, size, None
                elif name.lower().endswith(b".cls") and size <= _LABEL_LIMIT:
                    yield name, offset, size, os.pread(file.fileno(), size, offset).decode("utf-8", "replace").strip()
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise UserError(f"{path}: this tar archive is damaged at byte {tar.offset}; fetch it again")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:  # the last three: a size that no file has
        raise UserError(f"{path}: {_complaint(file, error)}") from error


def _complaint(file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    if file.read(6).startswith(_COMPRESSED):
        return "this tar archive is compressed, so that no image can be reached at random; unpack it to a plain .tar"
    return f"not a whole tar archive ({error}); fetch it again"
