"""Tar shards in the WebDataset convention, read at random through an index of byte offsets."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress, count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coterie.data.sources.blocks import ShardLayout
from coterie.data.sources.files import READ_LIMIT
from coterie.data.sources.labels import Labels, classify
from coterie.data.sources.names import text
from coterie.data.sources.object_store import RemoteShard
from coterie.data.sources.shards import LocalShard, index_of, opened_shards
from coterie.errors import BadImage, NoImages

_KEPT_OPEN = 256  # shards whose descriptors a process keeps; any beyond are opened for each image
_KEPT_MAPPED = 4096  # shards whose indices a process keeps mapped
_OFTEN = 16  # a process that reads so many images of a shard in a store, one by one, is better off with a copy


class TarShards:
    """An image source over tar shards, in the order of the shards and of the images in them.

    The key of a file is its path up to the first dot of its last part; what follows is the field: ``0001.jpg`` is the
    image of the key ``0001`` and ``0001.cls`` its label (an integer, or the name of a class). A key has one image, the
    first; a field of several parts (``0001.seg.png``) is an image only where the key has no plain one.

    Opening reads headers only, and each shard's only once: its index is kept in the cache folder, mapped where an image of
    the shard is asked for, and shared by all processes. Images are read by `os.pread`, which moves no shared position, so
    that forked workers may use one source; each process opens its own shards.

    A shard may be in a store that fsspec reads. Opening it for the first time copies it to the cache folder, whose size is
    bounded; afterwards an image comes from the copy if it is still there, or else from the store.

    Raises:
        NoImages: there is no image in these shards.
        UserError: a shard is missing, compressed, cut short or no tar archive; or a store stays away.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._descriptors: dict[int, int] = {}
        self._mapped: dict[int, pa.RecordBatch] = {}
        self._read_apart: dict[int, int] = {}  # images that came one by one from a store, by shard
        self._gone: dict[int, str] = {}
        self._shards, found = opened_shards(paths)
        self._held = {shard: index for shard, (*_, index) in enumerate(found) if index is not None}  # kept in no file
        self._starts = array("q", [0, *accumulate(images for images, *_ in found)])
        if not len(self):
            raise NoImages(f"{', '.join(paths[:3])}: no image in {'this shard' if len(paths) == 1 else 'these shards'}")
        self.labels: Labels | None = None
        self.classes: tuple[str, ...] = ()
        if any(labeled for _, labeled, _ in found):
            self.labels, self.classes = classify(self._labels([labeled for _, labeled, _ in found]))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            BadImage: the shard is gone, or is not as it was when it was opened.
            UserError: the store stays away.
        """
        batch, shard, row = self._find(index)
        offset, size = batch.column(1)[row].as_py(), batch.column(2)[row].as_py()
        if size > READ_LIMIT:
            raise BadImage(f"{size} bytes, more than are read of one image ({READ_LIMIT})")
        where = self._shards[shard]
        try:
            if isinstance(where, RemoteShard):
                data = self._read_remote(where, shard, size, offset)
            else:
                data = self._read(where, shard, size, offset)
        except OSError as error:
            raise BadImage(f"{where.path} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadImage(f"{where.path} has become shorter since it was opened")
        return data

    def __getstate__(self) -> dict[str, object]:
        """Descriptors and maps belong to one process."""
        return {**self.__dict__, "_descriptors": {}, "_mapped": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def name(self, index: int) -> str:
        """The image's path in its shard."""
        batch, _, row = self._find(index)
        return text(batch.column(0)[row].as_py())

    def label(self, index: int) -> int | None:
        """The number of the image's class, or None."""
        return None if self.labels is None or self.labels[index] < 0 else int(self.labels[index])

    def files(self) -> tuple[bytes, ...]:
        """The paths of the shards; in a store, the address, size and version of each."""
        return tuple(
            os.fsencode(each.path if isinstance(each, LocalShard) else f"{each.path}\0{each.size}\0{each.version}")
            for each in self._shards
        )

    @property
    def blocks(self) -> ShardLayout:
        """Where each shard begins."""
        return ShardLayout(
            np.array(self._starts, dtype=np.int64), any(isinstance(shard, RemoteShard) for shard in self._shards)
        )

    def prefetch(self, start: int, stop: int) -> None:
        """Have copies of the shards of the images ``[start, stop)`` on this machine.

        Raises:
            BadImage: as of an image of theirs.
            UserError: likewise, or there is no room.
        """
        for shard in range(bisect_right(self._starts, start) - 1, len(self._shards)):
            if self._starts[shard] >= stop:
                break
            where = self._shards[shard]
            if isinstance(where, RemoteShard):
                where.prefetch()

    def _find(self, index: int) -> tuple[pa.RecordBatch, int, int]:
        """The index of the image's shard, the shard's number, and the row in the index."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self._index(shard), shard, index - self._starts[shard]

    def _index(self, shard: int) -> pa.RecordBatch:
        batch = self._mapped.get(shard, self._held.get(shard))
        if batch is not None:
            return batch
        batch, mapped = index_of(self._shards[shard])
        if len(batch) != self._starts[shard + 1] - self._starts[shard]:
            raise BadImage(f"{self._shards[shard].path} has changed since it was opened")
        if not mapped:  # the cache folder was emptied, and cannot be filled again
            return self._held.setdefault(shard, batch)
        if len(self._mapped) >= _KEPT_MAPPED:
            self._mapped.pop(next(iter(self._mapped)), None)
        return self._mapped.setdefault(shard, batch)

    def _labels(self, labeled: list[bool]) -> Iterator[int | str | None]:
        """The label of each image: integers, if all of them are."""
        texts: set[str | None] = set()
        for shard in compress(count(), labeled):
            texts.update(pc.unique(self._index(shard).column("label")).to_pylist())
        meaning = _meanings(texts)
        for shard, some in enumerate(labeled):
            if some:
                yield from (meaning[label] for label in self._index(shard).column("label").to_pylist())
            else:
                yield from (None for _ in range(self._starts[shard], self._starts[shard + 1]))

    def _read(self, where: LocalShard, shard: int, size: int, offset: int) -> bytes:
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = where.descriptor()
        if shard < _KEPT_OPEN and self._descriptors.setdefault(shard, descriptor) == descriptor:
            return os.pread(descriptor, size, offset)
        try:  # beyond what is kept, or another thread was first
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _read_remote(self, where: RemoteShard, shard: int, size: int, offset: int) -> bytes:
        if shard in self._gone:
            raise BadImage(self._gone[shard])
        data = where.from_copy(offset, size)
        if data is not None:
            return data
        read = self._read_apart[shard] = self._read_apart.get(shard, 0) + 1
        try:
            if read % _OFTEN == 0:
                where.try_to_bring()
            return where.from_store(offset, size)
        except BadImage as error:  # the store is asked once: the other images of this shard are as bad
            self._gone[shard] = str(error)
            raise


def _meanings(texts: set[str | None]) -> dict[str | None, int | str | None]:
    """What each label text stands for: an integer, if all of them do."""
    try:
        return {label: None if label is None else int(label) for label in texts}
    except ValueError:
        return {label: label for label in texts}
