"""Tar shards in the WebDataset convention, with random access through an index of byte offsets."""

import os
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import pyarrow as pa

from coterie.data.decoding.pixels import check_bytes
from coterie.data.sources.file_names import printable
from coterie.data.sources.files import READ_LIMIT
from coterie.data.sources.fingerprint import StoredFile
from coterie.data.sources.label_values import ImageLabels, LabelNotes
from coterie.data.sources.labels import label_at
from coterie.data.sources.left_out import LeftOut
from coterie.data.sources.object_store import RemoteShard
from coterie.data.sources.shard_layout import ShardLayout
from coterie.data.sources.shards import LocalShard, load_index, open_shards
from coterie.data.sources.tar_labels import file_labels, folder_labels
from coterie.data.sources.tar_members import with_holes
from coterie.errors import BadImage, NoImages

_KEPT_OPEN = 256  # shards whose descriptors a process keeps open; any others are opened for each image
_KEPT_MAPPED = 4096  # shards whose indices a process keeps mapped
_READS_BEFORE_COPY = 16  # images of a remote shard that a process reads one by one before it tries to copy the shard


class TarShards:
    """An image source over tar shards, in the order of the shards and of the images in them.

    The key of a file is its path up to the first dot of the last component; the rest is the field: ``0001.jpg`` is the
    image of the key ``0001``, and ``0001.cls`` its label (an integer or a class name), which may also be in
    ``0001.json`` (see `coterie.data.sources.json_labels`). A key may have several images; a mask or the like beside another
    one (``0001.seg.png``) is none. Without any such label, the folders in the shards are the classes, as those in a folder:
    the first folder of each image below the one that all have in common.

    A shard is read as if GNU tar unpacked it: links as what they lead to, holes of sparse files as zeros, and archives one
    after another in one file (``tar -i``). Only where a name occurs again, both are images, each with the label beside it.

    Opening reads only headers, and those of each shard only once: its index is saved in the cache folder, mapped when an
    image of the shard is read, and shared by all processes. Images are read with `os.pread`, which moves no shared
    position, so forked workers can use one source; each process opens its own shards.

    A shard may be in a store that fsspec reads. Opening it for the first time copies it to the cache folder, whose size is
    bounded; later, images come from the copy if it still exists, or else from the store.

    Args:
        paths: Paths or URLs of the shards.
        label_key: The key of the label in ``.json`` files; None: found by common names.

    Raises:
        NoImages: There are no images in these shards.
        UserError: A shard is missing, compressed, truncated or not a tar archive; or a store does not answer.
    """

    def __init__(self, paths: Sequence[str], label_key: str | None = None) -> None:
        self._label_key = label_key
        self._descriptors: dict[int, int] = {}
        self._mapped: dict[int, pa.RecordBatch] = {}
        self._single_reads: dict[int, int] = {}  # by shard: images that were read one by one from a store
        self._missing: dict[int, str] = {}  # by remote shard: why it cannot be read
        self._shards, summaries = open_shards(paths, label_key)
        self._unsaved = {shard: each.index for shard, each in enumerate(summaries) if each.index is not None}
        self._starts = array("q", [0, *accumulate(each.images for each in summaries)])
        left = LeftOut()
        for each in summaries:
            left.add(each.left_out)
        where = ", ".join(paths[:1]) if len(paths) == 1 else f"{len(paths):,} shards"
        self.image_remarks = left.remarks(where)
        if not len(self):
            shown = f"{', '.join(paths[:3])}: no image in {'this shard' if len(paths) == 1 else 'these shards'}"
            raise NoImages(f"{shown}, which hold{'s' * (len(paths) == 1)} {left}" if left.counts else shown)
        given = self._read_labels([each.labeled for each in summaries])
        self.labels, self.classes, self.label_matrix = given.numbers, given.classes, given.matrix
        self.label_notes = given.notes

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
        pieces = table.column(4)[row].as_py() if table.column(4).null_count < len(table) else None
        if pieces is None:
            return self._read(shard, offset, size)
        check_bytes(size)  # a file with holes may be a thousand times what is stored of it
        return with_holes(self._read(shard, offset, sum(pieces[1::2])), size, pieces)

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
        return label_at(self.labels, index)

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
        index, mapped = load_index(self._shards[shard], self._label_key)
        if len(index) != self._starts[shard + 1] - self._starts[shard]:
            raise BadImage(f"{self._shards[shard].path} has changed since it was opened")
        if not mapped:  # the cache folder was emptied, and is no longer writable
            return self._unsaved.setdefault(shard, index)
        if len(self._mapped) >= _KEPT_MAPPED:
            self._mapped.pop(next(iter(self._mapped)), None)
        return self._mapped.setdefault(shard, index)

    def _read_labels(self, labeled: list[bool]) -> ImageLabels:
        """Labels from files beside the images, or else from folders in the shards."""
        if any(labeled):
            texts = [self._index(shard).column("label") if known else None for shard, known in enumerate(labeled)]
            return file_labels(texts, [stop - start for start, stop in pairwise(self._starts)])
        if self._label_key is not None:
            return ImageLabels(notes=LabelNotes(absent=f"no .json file in its shards has the key {self._label_key!r}"))
        names = (self._index(shard).column("name") for shard in range(len(self._shards)))
        return folder_labels(names, len(self))

    def _read(self, shard: int, offset: int, size: int) -> bytes:
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
