"""Which images a source holds, wherever they are stored: how a resumed run recognizes its images."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coterie.atomic import writing
from coterie.data.sources.content import content_key
from coterie.data.sources.file_names import FileNames, printable
from coterie.data.sources.source import ImageSource, random_positions
from coterie.errors import BadImage

_SCHEMA = pa.schema(
    [("name", pa.large_binary()), ("size", pa.int64()), ("version", pa.string()), ("root", pa.binary())]
)
_IMAGES = b"coterie.images"
_BATCH = 2**16
_ITEM = b"item "
_SAMPLED_ITEMS = 64
"""Of a source without files, so many items are compared by their content."""


class StoredFile(NamedTuple):
    """A file of a source: an image, or a shard or table with many.

    Attributes:
        name: its path below ``root``.
        size: its size in bytes; -1 if it is missing.
        version: the version that its store reports (an etag); empty for a file on this machine.
        root: the folder that the source was opened from. Not part of the file's identity.
    """

    name: bytes
    size: int
    version: str
    root: bytes


@runtime_checkable
class HasFiles(Protocol):
    """A source that lists its files."""

    def __len__(self) -> int:
        """The number of images."""

    def stored_files(self) -> Iterable[StoredFile]:
        """The files, in the order of their images."""


@dataclass(frozen=True)
class Differences:
    """How the files of a source differ from those of another.

    Attributes:
        added: names that only the other has.
        removed: names that only this one has.
        changed: names that both have, with another size or version.
        numbers: how many images both have, where the names do not tell more: of some items, and of pages; else None.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    numbers: tuple[int, int] | None = None

    def __str__(self) -> str:
        """How many of each, with an example, as in ``2 added (such as cat/7.png), 1 removed (...)``."""
        if self.numbers is not None:
            return "{} images before, {} now".format(*self.numbers)
        kinds = {"added": self.added, "removed": self.removed, "changed": self.changed}
        counts = [f"{len(names)} {kind} (such as {names[0]})" for kind, names in kinds.items() if names]
        return ", ".join(counts) or "the same files in another order"

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)


@dataclass(frozen=True)
class Fingerprint:
    """The files of a source in their order; of a source without files, the number of its items and the content of some.

    Two sources hold the same images if the names below their roots, the sizes and the versions are the same. The folder
    itself may be spelled differently or be elsewhere, and times do not matter: clusters stage the same files anew for each job.

    Attributes:
        images: the number of images.
        files: a table with the fields of :class:`StoredFile`.
    """

    images: int
    files: pa.Table

    @classmethod
    def of(cls, source: ImageSource) -> "Fingerprint":
        """List the files of a source, which takes one ``stat`` per file, or read some items of one without files."""
        parts: tuple[ImageSource, ...] = getattr(source, "sources", (source,))
        tables = [each for part in parts for each in _tables(part)]
        return cls(len(source), pa.concat_tables(tables) if tables else _SCHEMA.empty_table())

    @classmethod
    def read(cls, path: Path) -> "Fingerprint | None":
        """Read a file that :meth:`write` wrote; None if it is missing or damaged."""
        try:
            with pq.ParquetFile(path) as file:  # pq.read_table would import pandas
                table = file.read()
            return cls(int(table.schema.metadata[_IMAGES]), table.select(_SCHEMA.names).cast(_SCHEMA))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def write(self, path: Path) -> None:
        """Write a parquet file: one row per file, with its name, size, version and root."""
        with writing(path) as part:
            pq.write_table(self.files.replace_schema_metadata({_IMAGES: str(self.images)}), part, compression="zstd")

    @property
    def key(self) -> str:
        """A short name for these images, the same wherever they are stored."""
        digest = hashlib.sha256(str(self.images).encode())
        for batch in self._identity().to_batches():
            digest.update(batch.serialize())
        return digest.hexdigest()[:16]

    def same_images(self, other: "Fingerprint") -> bool:
        """Whether another source holds the same images in the same order."""
        return self.images == other.images and self._identity().equals(other._identity())

    def moved(self, other: "Fingerprint") -> bool:
        """Whether another source was opened from other folders."""
        return not self.files["root"].equals(other.files["root"])

    def differences(self, other: "Fingerprint") -> Differences:
        """What was added, removed or changed in another source.

        A file is recognized by its name below the root, or by its absolute path if that leaves fewer differences: the root of
        a pattern may move up when a folder is added.
        """
        found = min((_compare(self._keys(full), other._keys(full)) for full in (False, True)), key=len)
        sampled = any(name.startswith(_ITEM) for name in self.files["name"].to_pylist())
        if self.images != other.images and (sampled or not len(found)):  # the latter of pages
            return replace(found, numbers=(self.images, other.images))
        return found

    def _identity(self) -> pa.Table:
        return self.files.select(["name", "size", "version"]).combine_chunks()

    def _keys(self, full: bool) -> dict[tuple[bytes, int], tuple[int, str]]:
        """Size and version by name; equal names are numbered."""
        seen: Counter[bytes] = Counter()
        keys: dict[tuple[bytes, int], tuple[int, str]] = {}
        for row in self.files.to_pylist():
            name = os.path.join(row["root"], row["name"]) if full else row["name"]  # noqa: PTH118 -- bytes
            keys[name, seen[name]] = row["size"], row["version"]
            seen[name] += 1
        return keys


def stored_file(root: bytes, name: bytes) -> StoredFile:
    """A file on this machine, as it is now."""
    try:
        size = os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118 -- bytes
    except OSError:
        size = -1
    return StoredFile(name, size, "", root.rstrip(b"/") or b"/")


def stored_table(names: pa.Array, sizes: Sequence[int], root: bytes) -> pa.Table:
    """A table with the fields of :class:`StoredFile`, of files on this machine in one folder.

    Args:
        names: their paths below ``root``.
        sizes: their sizes in bytes.
        root: the folder.
    """
    count = len(names)
    folder, version = _texts([root.rstrip(b"/") or b"/"], pa.binary())[0], _texts([b""], pa.string())[0]
    columns = [names, _integers(sizes), pa.repeat(version, count), pa.repeat(folder, count)]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _tables(part: ImageSource) -> Iterator[pa.Table]:
    """The files of a source, from its own table if it makes one; or some of its items."""
    whole: Callable[[], pa.Table | None] = getattr(part, "stored_table", lambda: None)
    made = whole()
    if made is not None:
        yield made
    else:
        files = part.stored_files() if isinstance(part, HasFiles) else _sampled_items(part)
        yield pa.Table.from_batches(_batches(files), _SCHEMA)


def _sampled_items(source: ImageSource) -> Iterator[StoredFile]:
    """Some items of a source without files, always the same ones, as if each were a file whose version is its content."""
    for index in random_positions(_SAMPLED_ITEMS, len(source)).tolist():
        try:
            key = content_key(source[index])
        except BadImage:
            key = "bad"
        yield StoredFile(_ITEM + str(index).encode(), 0, key, b"")


def _batches(files: Iterable[StoredFile]) -> Iterator[pa.RecordBatch]:
    rows: list[StoredFile] = []
    for each in files:
        rows.append(each)
        if len(rows) == _BATCH:
            yield _batch(rows)
            rows = []
    yield _batch(rows)


def _batch(rows: list[StoredFile]) -> pa.RecordBatch:
    names, roots = ([getattr(each, column) for each in rows] for column in ("name", "root"))
    versions = _texts([each.version.encode() for each in rows], pa.string())
    columns = [
        FileNames(names).as_arrow(),
        _integers([each.size for each in rows]),
        versions,
        _texts(roots, pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _texts(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """An array of texts; ``pa.array`` and ``pa.scalar`` would import pandas if it is installed, half a second at each start."""
    return FileNames(values).as_arrow().cast(kind)


def _integers(values: Sequence[int]) -> pa.Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.array(values, np.int64))])


def _compare(before: Mapping[tuple[bytes, int], object], now: Mapping[tuple[bytes, int], object]) -> Differences:
    added = [printable(name) for name, number in now if (name, number) not in before]
    removed = [printable(name) for name, number in before if (name, number) not in now]
    changed = [printable(key[0]) for key, value in before.items() if key in now and now[key] != value]
    return Differences(tuple(added), tuple(removed), tuple(changed))
