"""Where the images of a tar shard are: read from its headers once, saved in the cache folder and mapped by all processes."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from coterie.atomic import writing
from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.json_labels import json_label
from coterie.data.sources.local_cache import cache_folder
from coterie.data.sources.tar_headers import regular_files
from coterie.errors import UserError

MIN_SAVED_IMAGES = 1000
"""Indices of fewer images are not saved: their headers are read in 20 ms."""
_FORMAT = "2"  # part of the file name; changes with the format
_LABEL_LIMIT = 1024  # bytes of a .cls file
_JSON_LIMIT = 2**20  # bytes of a .json file
BETWEEN_LABELS = "\0"
"""What is between the labels of an image that has several."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_SCHEMA = pa.schema(
    [("name", pa.large_binary()), ("offset", pa.int64()), ("size", pa.int64()), ("label", pa.large_string())]
)


def cached_index(key: str) -> pa.RecordBatch | None:
    """The index that was saved under this key, mapped; None if there is none, or it cannot be read.

    Returns:
        The columns ``name``, ``offset`` and ``size`` (in bytes) and ``label`` of each image, or several labels with
        `BETWEEN_LABELS` between them.
    """
    try:
        with pa.memory_map(str(_path(key))) as file:
            index = pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowException):
        return None
    return index if index.schema.equals(_SCHEMA) else None


def index_key(key: str, label_key: str | None) -> str:
    """The key of the index of a shard with labels under this key of its ``.json`` files."""
    return key if label_key is None else hashlib.sha256(f"{key}\0{label_key}".encode()).hexdigest()[:32]


def read_index(file: IO[bytes], path: str, label_key: str | None = None) -> pa.RecordBatch:
    """Read the index of a shard from its headers, with the columns of `cached_index`.

    Args:
        file: The opened shard.
        path: Its name in errors.
        label_key: Where labels are in its ``.json`` files (see `coterie.data.sources.json_labels.json_label`).

    Raises:
        UserError: The shard is compressed, truncated or not a tar archive.
    """
    rows = list(_images(file, path, label_key))
    return pa.record_batch([list(column) for column in zip(*rows, strict=True)] or [[]] * 4, schema=_SCHEMA)


def save_index(key: str, index: pa.RecordBatch) -> bool:
    """Save an index under this key; return False if it is too small, or cannot be written."""
    if len(index) < MIN_SAVED_IMAGES:
        return False
    try:
        with writing(_path(key)) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(index)
    except UserError:
        return False
    return True


def _path(key: str) -> Path:
    return cache_folder() / "index" / key[:2] / f"{key}.{_FORMAT}.arrow"


def _images(file: IO[bytes], path: str, label_key: str | None) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset, size and label of each image of a shard, in its order."""
    images: list[tuple[bytes, bytes, int, int]] = []  # key, name, offset, size
    plain: dict[bytes, bytes] = {}  # key -> name of its image
    classes: dict[bytes, str] = {}  # key -> what its .cls file says
    labels: dict[bytes, str] = {}  # and its .json file
    for name, offset, size, label in _members(file, path, label_key):
        folder, slash, last = name.rpartition(b"/")
        stem, _, field = last.partition(b".")
        key = folder + slash + stem
        if label is None:
            images.append((key, name, offset, size))
            if b"." not in field:
                plain.setdefault(key, name)
        elif label:
            (labels if field.lower().endswith(b"json") else classes)[key] = label
    for key, name, offset, size in images:
        if plain.get(key, name) == name:
            yield name, offset, size, classes.get(key, labels.get(key))


def _members(file: IO[bytes], path: str, label_key: str | None) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset and size of the images of a shard, and of its label files with their label; links are skipped."""

    def read(offset: int, size: int) -> str:
        return os.pread(file.fileno(), size, offset).decode("utf-8", "replace").strip()

    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            for name, offset, size in regular_files(tar, file.fileno()):
                name = name.removeprefix(b"./")
                if is_image_name(name):
                    yield name, offset, size, None
                elif name.lower().endswith(b".cls") and size <= _LABEL_LIMIT and label_key is None:
                    yield name, offset, size, read(offset, size).replace(BETWEEN_LABELS, "")
                elif name.lower().endswith(b".json") and size <= _JSON_LIMIT:
                    yield name, offset, size, BETWEEN_LABELS.join(json_label(read(offset, size), label_key))
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
    ) as error:  # the last three: an impossible file size
        raise UserError(f"{path}: {_complaint(file, error)}") from error


def _complaint(file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    if file.read(6).startswith(_COMPRESSED):
        return "this tar archive is compressed, which rules out random access to images; unpack it to a plain .tar"
    return f"not a complete tar archive ({error}); fetch it again"
