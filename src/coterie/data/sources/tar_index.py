"""Where the images of a tar shard are: read from its headers once, saved in the cache folder and mapped by all processes."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from coterie.atomic import writing
from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.json_labels import json_label
from coterie.data.sources.left_out import LeftOut
from coterie.data.sources.local_cache import cache_folder
from coterie.data.sources.tar_members import Stored, archives, with_holes
from coterie.data.sources.tar_samples import SampleLabels, images_of_samples
from coterie.errors import UserError

MIN_SAVED_IMAGES = 1000
"""Indices of fewer images are not saved: their headers are read in 20 ms."""
_FORMAT = "3"  # part of the file name; changes with the format
_LABEL_LIMIT = 1024  # bytes of a .cls file
_JSON_LIMIT = 2**20  # bytes of a .json file
BETWEEN_LABELS = "\0"
"""What is between the labels of an image that has several."""
_LEFT_OUT = b"coterie.left_out"
_SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.large_string()),
        ("pieces", pa.list_(pa.int64())),
    ]
)


def cached_index(key: str) -> pa.RecordBatch | None:
    """The index that was saved under this key, mapped; None if there is none, or it cannot be read.

    Returns:
        The columns ``name``, ``offset`` and ``size`` (in bytes), ``label`` of each image, or several labels with
        `BETWEEN_LABELS` between them, and ``pieces`` of files with holes (see `Stored`).
    """
    try:
        with pa.memory_map(str(_path(key))) as file:
            index = pa.ipc.open_file(file).get_batch(0)
    except (OSError, pa.ArrowException):
        return None
    return index if index.schema.equals(_SCHEMA) and _LEFT_OUT in (index.schema.metadata or {}) else None


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
    left = LeftOut()
    rows = list(_images(file, path, label_key, left))
    schema = _SCHEMA.with_metadata({_LEFT_OUT: json.dumps({"counts": left.counts, "repeated": left.repeated})})
    return pa.record_batch([list(column) for column in zip(*rows, strict=True)] or [[]] * len(schema), schema=schema)


def left_out_of(index: pa.RecordBatch) -> LeftOut:
    """What the index of a shard leaves out."""
    found = json.loads(index.schema.metadata[_LEFT_OUT])
    return LeftOut(found["counts"], found["repeated"])


def save_index(key: str, index: pa.RecordBatch) -> bool:
    """Save an index under this key; return False if it is too small, or cannot be written."""
    if len(index) < MIN_SAVED_IMAGES:
        return False
    try:
        with (
            writing(_path(key)) as part,
            pa.OSFile(str(part), "wb") as sink,
            pa.ipc.new_file(sink, index.schema) as writer,
        ):
            writer.write_batch(index)
    except UserError:
        return False
    return True


def _path(key: str) -> Path:
    return cache_folder() / "index" / key[:2] / f"{key}.{_FORMAT}.arrow"


def _images(file: IO[bytes], path: str, label_key: str | None, left: LeftOut) -> Iterator[tuple[Any, ...]]:
    """Name, offset, size, label and pieces of each image of a shard, in its order."""
    labels = SampleLabels()
    for archive in archives(file, path, left):
        labels, names = SampleLabels() if archive.first else labels, list[bytes]()
        for name, stored in archive.files.items():
            if is_image_name(name):
                names.append(name)
            elif name.lower().endswith(b".cls"):
                if stored.size <= _LABEL_LIMIT and label_key is None:
                    labels.add(name, _text(file, path, stored).replace(BETWEEN_LABELS, ""))
            elif stored.size <= _JSON_LIMIT:
                labels.add(name, BETWEEN_LABELS.join(json_label(_text(file, path, stored), label_key)))
        images = images_of_samples(names, left)
        for name, label in zip(images, labels.of(images), strict=True):
            stored = archive.files[name]
            yield name, stored.offset, stored.size, label, stored.pieces


def _text(file: IO[bytes], path: str, stored: Stored) -> str:
    try:
        size = stored.size if stored.pieces is None else sum(stored.pieces[1::2])
        data = os.pread(file.fileno(), size, stored.offset)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    whole = data if stored.pieces is None else with_holes(data, stored.size, stored.pieces)
    return whole.decode("utf-8", "replace").strip()
