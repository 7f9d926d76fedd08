"""Tar shards in the WebDataset convention, with random access through an index of byte offsets."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress, count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coterie.data.sources.file_names import printable
from coterie.data.sources.files import READ_LIMIT
from coterie.data.sources.fingerprint import StoredFile
from coterie.data.sources.labels import Labels, encode_labels
from coterie.data.sources.object_store import RemoteShard
from coterie.data.sources.shard_layout import ShardLayout
from coterie.data.sources.shards import LocalShard, load_index, open_shards
from coterie.errors import BadImage, NoImages

_KEPT_OPEN = 256  # shards whose descriptors a process keeps open; any others are opened for each image
_KEPT_MAPPED = 4096  # shards whose indices a process keeps mapped
_READS_BEFORE_COPY = 16  # images of a remote shard that a process reads one by one before it tries to copy the shard


class TarShards:
    """An image source over tar shards, in the order of the shards and of the images in them.

    The key of a file is its path up to the first dot of the last component; the rest is the field: ``0001.jpg`` is the
    image of the key ``0001``, and ``0001.cls`` its label (an integer or a class name). A key has one image, the first; a
    field with several parts (``0001.seg.png``) is an image only if the key has no plain one.

    Opening reads only headers, and those of each shard only once: its index is saved in the cache folder, mapped when an
    image of the shard is read, and shared by all processes. Images are read with `os.pread`, which moves no shared
    position, so forked workers can use one source; each process opens its own shards.

    A shard may be in a store that fsspec reads. Opening it for the first time copies it to the cache folder, whose size is
    bounded; later, images come from the copy if it still exists, or else from the store.

    Args:
        paths: Paths or URLs of the shards.

    Raises:
        NoImages: There are no images in these shards.
        UserError: A shard is missing, compressed, truncated or not a tar archive; or a store does not answer.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._descriptors: dict[int, int] = {}
        self._mapped: dict[int, pa.RecordBatch] = {}
        self._single_reads: dict[int, int] = {}  # by shard: images that were read one by one from a store
        self._missing: dict[int, str] = {}  # by remote shard: why it cannot be read
        self._shards, summaries = open_shards(paths)
        self._unsaved = {shard: index for shard, (*_, index) in enumerate(summaries) if index is not None}
        self._starts = array("q", [0, *accumulate(images for images, *_ in summaries)])
        if not len(self):
            raise NoImages(f"{', '.join(paths[:3])}: no image in {'this shard' if len(paths) == 1 else 'these shards'}")
        self.labels: Labels | None = None
        self.classes: tuple[str, ...] = ()
        if any(labeled for _, labeled, _ in summaries):
            self.labels, self.classes = encode_labels(self._labels([labeled for _, labeled, _ in summaries]))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes:
        """An encoded image.

        Raises:
            BadImage: The shard no longer exists, or has changed.
            UserError: The store does not answer.
        """
        table, shard, row = self._find(index)
        offset, size = table.column(1)[row].as_py(), table.column(2)[row].as_py()
        if size > READ_LIMIT:
            raise BadImage(f"{size} bytes, more than the limit of {READ_LIMIT} bytes per image")
        where = self._shards[shard]
        try:
            if isinstance(where, RemoteShard):
                data = self._read_remote(where, shard, size, offset)
            else:
                data = self._read_local(where, shard, size, offset)
        except OSError as error:
            raise BadImage(f"{where.path} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadImage(f"{where.path} has become shorter since it was opened")
        return data

    def __getstate__(self) -> dict[str, object]:
        """Leaves out descriptors and maps, which belong to one process."""
        return {**self.__dict__, "_descriptors": {}, "_mapped": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def name(self, index: int) -> str:
        """The path of an image in its shard."""
        table, _, row = self._find(index)
        return printable(table.column(0)[row].as_py())

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return None if self.labels is None or self.labels[index] < 0 else int(self.labels[index])

    def files(self) -> tuple[bytes, ...]:
        """The path of each shard; in a store, its URL, size and version."""
        return tuple(
            os.fsencode(each.path if isinstance(each, LocalShard) else f"{each.path}\0{each.size}\0{each.version}")
            for each in self._shards
        )

    def stored_files(self) -> tuple[StoredFile, ...]:
        """The shards, each named below its folder."""
        return tuple(each.stored_file for each in self._shards)

    @property
    def shard_layout(self) -> ShardLayout:
        """The first image of each shard."""
        return ShardLayout(
            np.array(self._starts, dtype=np.int64), any(isinstance(shard, RemoteShard) for shard in self._shards)
        )

    def prefetch(self, start: int, stop: int) -> None:
        """Copy the remote shards of the images ``[start, stop)`` to this machine.

        Raises:
            BadImage: A shard no longer exists, or has changed.
            UserError: The store does not answer, or there is no room.
        """
        for shard in range(bisect_right(self._starts, start) - 1, len(self._shards)):
            if self._starts[shard] >= stop:
                break
            where = self._shards[shard]
            if isinstance(where, RemoteShard):
                where.prefetch()

    def _find(self, index: int) -> tuple[pa.RecordBatch, int, int]:
        """The index of an image's shard, the number of the shard, and the row in the index."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self._index(shard), shard, index - self._starts[shard]

    def _index(self, shard: int) -> pa.RecordBatch:
        index = self._mapped.get(shard, self._unsaved.get(shard))
        if index is not None:
            return index
        index, mapped = load_index(self._shards[shard])
        if len(index) != self._starts[shard + 1] - self._starts[shard]:
            raise BadImage(f"{self._shards[shard].path} has changed since it was opened")
        if not mapped:  # the cache folder was emptied, and is no longer writable
            return self._unsaved.setdefault(shard, index)
        if len(self._mapped) >= _KEPT_MAPPED:
            self._mapped.pop(next(iter(self._mapped)), None)
        return self._mapped.setdefault(shard, index)

    def _labels(self, labeled: list[bool]) -> Iterator[int | str | None]:
        """The label of each image: integers if all labels are integers."""
        texts: set[str | None] = set()
        for shard in compress(count(), labeled):
            texts.update(pc.unique(self._index(shard).column("label")).to_pylist())
        values = _label_values(texts)
        for shard, has_labels in enumerate(labeled):
            if has_labels:
                yield from (values[label] for label in self._index(shard).column("label").to_pylist())
            else:
                yield from (None for _ in range(self._starts[shard], self._starts[shard + 1]))

    def _read_local(self, where: LocalShard, shard: int, size: int, offset: int) -> bytes:
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = where.open_descriptor()
        if shard < _KEPT_OPEN and self._descriptors.setdefault(shard, descriptor) == descriptor:
            return os.pread(descriptor, size, offset)
        try:  # beyond those kept open, or another thread was first
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _read_remote(self, where: RemoteShard, shard: int, size: int, offset: int) -> bytes:
        if shard in self._missing:
            raise BadImage(self._missing[shard])
        data = where.read_copy(offset, size)
        if data is not None:
            return data
        reads = self._single_reads[shard] = self._single_reads.get(shard, 0) + 1
        try:
            if reads % _READS_BEFORE_COPY == 0:
                where.try_prefetch()
            return where.read_store(offset, size)
        except BadImage as error:  # ask the store once: no other image of this shard can be read either
            self._missing[shard] = str(error)
            raise


def _label_values(texts: set[str | None]) -> dict[str | None, int | str | None]:
    """The value of each label text: an integer if all of them are integers."""
    try:
        return {label: None if label is None else int(label) for label in texts}
    except ValueError:
        return {label: label for label in texts}
