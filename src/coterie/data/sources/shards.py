"""Tar shards on this machine or in a store, in the version in which they were opened, and their indices."""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO

import pyarrow as pa

from coterie.data.sources.fingerprint import StoredFile
from coterie.data.sources.left_out import LeftOut
from coterie.data.sources.local_cache import exclusive
from coterie.data.sources.object_store import RemoteShard, is_remote, remote_shard
from coterie.data.sources.tar_index import cached_index, index_key, left_out_of, read_index, save_index
from coterie.errors import BadImage, UserError
from coterie.usable_cores import usable_cores

_AT_ONCE = 16  # shards that are fetched from a store, or read on this machine, at the same time
_MIN_SHARDS = 16  # new shards for which processes are started; the headers of fewer are read in a second
_LARGE = 2**20  # bytes of a shard that may have enough images for its index to be saved


@dataclass(frozen=True, slots=True)
class LocalShard:
    """One file of this machine, in the version in which it was opened.

    Attributes:
        path: Absolute path.
        size: Size in bytes.
        modified: Time of its last change, in nanoseconds.
    """

    path: str
    size: int
    modified: int

    @property
    def key(self) -> str:
        """A name for what is derived from this version of the file."""
        version = os.fsencode(f"{self.path}\0{self.size}\0{self.modified}")
        return hashlib.sha256(version).hexdigest()[:32]

    @property
    def stored_file(self) -> StoredFile:
        """The file as one of a source's, named below its folder."""
        folder, name = os.path.split(os.fsencode(self.path))
        return StoredFile(name, self.size, "", folder)

    def open(self) -> IO[bytes]:
        """Open the file.

        Raises:
            UserError: It is missing, or cannot be read.
        """
        try:
            return Path(self.path).open("rb")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error

    def open_descriptor(self) -> int:
        """Open the file for reading, as a descriptor.

        Raises:
            OSError: It is missing, or cannot be read.
            BadImage: It has changed.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            os.close(descriptor)
            what = "become shorter" if status.st_size < self.size else "changed"
            raise BadImage(f"{self.path} has {what} since it was opened")
        return descriptor


Shard = LocalShard | RemoteShard


@dataclass(frozen=True)
class ShardSummary:
    """What there is to know of a shard before its images are read.

    Attributes:
        images: number of images.
        labeled: whether any has a label.
        left_out: what is no image.
        index: its index; None if that is saved in a file.
    """

    images: int
    labeled: bool
    left_out: LeftOut
    index: pa.RecordBatch | None


def open_shards(paths: Sequence[str], label_key: str | None = None) -> tuple[tuple[Shard, ...], list[ShardSummary]]:
    """Open shards by paths or URLs, and summarize each.

    Shards in a store are fetched several at a time; on this machine, several processes read where there is much to read.

    Raises:
        UserError: A shard is missing, compressed, truncated or not a tar archive; or a store does not answer.
    """
    if not any(map(is_remote, paths)):
        local = tuple(map(_local_shard, paths))
        cached = [_cached_summary(shard, label_key) for shard in local]
        missing = [shard for shard, summary in zip(local, cached, strict=True) if summary is None]
        _index_in_processes(missing, label_key, lock=f"index-{local[0].key[:8]}")
        return local, [summary or _summary(shard, label_key) for shard, summary in zip(local, cached, strict=True)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        shards = tuple(pool.map(_shard, paths))
        return shards, list(pool.map(_summary, shards, repeat(label_key)))


def load_index(shard: Shard, label_key: str | None = None) -> tuple[pa.RecordBatch, bool]:
    """The index of a shard (see `read_index`), and whether it is mapped from a file; reads headers only if it is not.

    Raises:
        UserError: The shard is missing, compressed, truncated or not a tar archive; or the store does not answer.
    """
    key = index_key(shard.key, label_key)
    index = cached_index(key)
    if index is not None:
        return index, True
    with shard.open() as file:
        index = read_index(file, shard.path, label_key)
    mapped = cached_index(key) if save_index(key, index) else None
    return (index, False) if mapped is None else (mapped, True)


def _summary(shard: Shard, label_key: str | None) -> ShardSummary:
    return _summarize(*load_index(shard, label_key))


def _cached_summary(shard: Shard, label_key: str | None) -> ShardSummary | None:
    index = cached_index(index_key(shard.key, label_key))
    return None if index is None else _summarize(index, True)


def _summarize(index: pa.RecordBatch, mapped: bool) -> ShardSummary:
    labeled = index.column("label").null_count < len(index)
    return ShardSummary(len(index), labeled, left_out_of(index), None if mapped else index)


def _index_in_processes(shards: Sequence[LocalShard], label_key: str | None, lock: str) -> None:
    """Save the indices of many shards, reading them in one process per core; does nothing for few shards.

    The processes report nothing: whoever opens the shards next finds what is wrong with them, and reads what is missing.
    Several runs that open the same shards at the same time (the processes of torchrun) do this once.
    """
    large = [shard for shard in shards if shard.size >= _LARGE]
    if len(large) < _MIN_SHARDS or multiprocessing.current_process().daemon:
        return
    with suppress(OSError, UserError), exclusive(lock):
        _, saved = load_index(large[0], label_key)
        if not saved:  # too few images, or no place to save it: the same holds for the others
            return
        context, count = multiprocessing.get_context("fork"), min(_AT_ONCE, len(usable_cores()))
        parts = [large[1 + number :: count] for number in range(count)]
        processes = [
            context.Process(target=_save_indices, args=(part, label_key, os.getpid()), daemon=True) for part in parts
        ]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()


def _save_indices(shards: Sequence[LocalShard], label_key: str | None, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, which ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # removes what is half written
    for shard in shards:
        if os.getppid() != parent:  # the parent was killed
            return
        with suppress(UserError):  # the parent tries again, and reports it
            load_index(shard, label_key)


def _shard(path: str) -> Shard:
    return remote_shard(path) if is_remote(path) else _local_shard(path)


def _local_shard(path: str) -> LocalShard:
    path = str(Path(path).absolute())
    try:
        status = os.stat(path)  # noqa: PTH116 -- there may be a hundred thousand
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return LocalShard(path, status.st_size, status.st_mtime_ns)
