"""A shard on this machine or in a store, as it was when it was opened."""

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from coterie.data.sources.local_cache import exclusive
from coterie.data.sources.object_store import RemoteShard, is_remote, located
from coterie.data.sources.tar_index import keep_index, kept_index, read_index
from coterie.errors import BadImage, UserError

_AT_ONCE = 16  # shards that are fetched from a store, or read on this machine, at the same time
_WORTH_PROCESSES = 16  # shards without an index; the headers of fewer are read in a second
_LARGE = 2**20  # bytes of a shard that may have so many images that its index is kept


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
Summary = tuple[int, bool, pa.RecordBatch | None]


def opened_shards(paths: Sequence[str]) -> tuple[tuple[Shard, ...], list[Summary]]:
    """The shards of some paths or URLs; and of each the number of images, whether labels are among them, and its index.

    The index is None where it is kept in a file. What comes from a store comes several at a time; on this machine several
    processes read, where there is much to read.

    Raises:
        UserError: a shard is missing, compressed, cut short or no tar archive; or a store stays away.
    """
    if not any(map(is_remote, paths)):
        local = tuple(map(_local, paths))
        kept = list(map(_kept_summary, local))
        missing = [shard for shard, known in zip(local, kept, strict=True) if known is None]
        _read_together(missing, lock=f"index-{local[0].key[:8]}")
        return local, [known or _summary(shard) for shard, known in zip(local, kept, strict=True)]
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


def _summary(shard: Shard) -> Summary:
    return _described(*index_of(shard))


def _kept_summary(shard: Shard) -> Summary | None:
    batch = kept_index(shard.key)
    return None if batch is None else _described(batch, True)


def _described(batch: pa.RecordBatch, mapped: bool) -> Summary:
    labeled = batch.column("label").null_count < len(batch)
    return len(batch), labeled, None if mapped else batch


def _read_together(shards: Sequence[LocalShard], lock: str) -> None:
    """Have the indices of shards written by several processes, one for each core, where there are many to read.

    They leave nothing else behind: whoever opens the shards next finds what there is to say of them, and reads what is not
    there. Several runs that open the same shards at the same time (the processes of torchrun) do it once.
    """
    large = [shard for shard in shards if shard.size >= _LARGE]
    if len(large) < _WORTH_PROCESSES or multiprocessing.current_process().daemon:
        return
    with suppress(OSError, UserError), exclusive(lock):
        if not index_of(large[0])[1]:  # it has few images, or there is no place to keep it, and for the others neither
            return
        context, count = multiprocessing.get_context("fork"), min(_AT_ONCE, len(os.sched_getaffinity(0)))
        parts = [large[1 + number :: count] for number in range(count)]
        processes = [context.Process(target=_keep_indices, args=(part, os.getpid()), daemon=True) for part in parts]
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()


def _keep_indices(shards: Sequence[LocalShard], parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what is half written is removed
    for shard in shards:
        if os.getppid() != parent:  # it was killed
            return
        with suppress(UserError):  # it is told by the parent, which tries again
            index_of(shard)


def _shard(path: str) -> Shard:
    return located(path) if is_remote(path) else _local(path)


def _local(path: str) -> LocalShard:
    path = str(Path(path).absolute())
    try:
        status = os.stat(path)  # noqa: PTH116 -- a hundred thousand of them
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return LocalShard(path, status.st_size, status.st_mtime_ns)
