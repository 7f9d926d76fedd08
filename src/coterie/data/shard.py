"""A shard on this machine or in a store, as it was when it was opened."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from coterie.data.index import keep_index, kept_index, read_index
from coterie.data.remote import RemoteShard, is_remote, located
from coterie.errors import BadImage, UserError

_AT_ONCE = 16  # shards that are fetched from a store at the same time


@dataclass(frozen=True, slots=True)
class LocalShard:
    """One file of this machine, as it was when it was opened.

    Attributes:
        path: absolute.
        size: in bytes.
        changed: when it was, in nanoseconds.
    """

    path: str
    size: int
    changed: int

    @property
    def key(self) -> str:
        """A name for what is derived from this version of the file."""
        known = os.fsencode(f"{self.path}\0{self.size}\0{self.changed}")
        return hashlib.sha256(known).hexdigest()[:32]

    def opened(self) -> IO[bytes]:
        """The file.

        Raises:
            UserError: it is gone, or cannot be read.
        """
        try:
            return Path(self.path).open("rb")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error

    def descriptor(self) -> int:
        """Of the file, opened for reading.

        Raises:
            OSError: it is gone, or cannot be read.
            BadImage: it is not as it was.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.changed):
            os.close(descriptor)
            become = "become shorter" if status.st_size < self.size else "changed"
            raise BadImage(f"{self.path} has {become} since it was opened")
        return descriptor


Shard = LocalShard | RemoteShard


def opened_shards(paths: Sequence[str]) -> tuple[tuple[Shard, ...], list[tuple[int, bool, pa.RecordBatch | None]]]:
    """The shards of some paths or URLs; and of each the number of images, whether labels are among them, and its index.

    The index is None where it is kept in a file. What comes from a store comes several at a time.

    Raises:
        UserError: a shard is missing, compressed, cut short or no tar archive; or a store stays away.
    """
    if not any(map(is_remote, paths)):
        shards = tuple(map(_shard, paths))
        return shards, list(map(_summary, shards))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        shards = tuple(pool.map(_shard, paths))
        return shards, list(pool.map(_summary, shards))


def index_of(shard: Shard) -> tuple[pa.RecordBatch, bool]:
    """The index of a shard (see `read_index`), and whether it is mapped from a file.

    Raises:
        UserError: as of `opened_shards`.
    """
    batch = kept_index(shard.key)
    if batch is not None:
        return batch, True
    with shard.opened() as file:
        batch = read_index(file, shard.path)
    mapped = kept_index(shard.key) if keep_index(shard.key, batch) else None
    return (batch, False) if mapped is None else (mapped, True)


def _summary(shard: Shard) -> tuple[int, bool, pa.RecordBatch | None]:
    batch, mapped = index_of(shard)
    labelled = batch.column("label").null_count < len(batch)
    return len(batch), labelled, None if mapped else batch


def _shard(path: str) -> Shard:
    if is_remote(path):
        return located(path)
    path = str(Path(path).absolute())
    try:
        status = os.stat(path)  # noqa: PTH116 -- a hundred thousand of them
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return LocalShard(path, status.st_size, status.st_mtime_ns)
