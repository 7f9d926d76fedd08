"""Parquet tables in a store, unpacked one by one to local copies of bounded total size."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate, repeat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coterie.data.sources import parquet
from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.file_names import FileNames
from coterie.data.sources.fingerprint import StoredFile
from coterie.data.sources.label_values import ImageLabels
from coterie.data.sources.labels import LabelMatrix, label_at
from coterie.data.sources.local_cache import find_copy, make_copy
from coterie.data.sources.object_store import remote_shard
from coterie.data.sources.parquet_labels import read_label_matrix, read_labels
from coterie.data.sources.shard_layout import ShardLayout
from coterie.errors import BadImage, NoImages, UserError

_THREADS = 16  # tables whose footers are read at the same time
_KEPT_MAPPED = 32  # copies that a process keeps mapped; a removed copy takes space until it is unmapped


def open_remote_tables(urls: Sequence[str], columns: Columns = ANY_COLUMNS) -> list["RemoteTable"]:
    """Open tables in a store, one source each.

    Raises:
        NoImages: The tables have no rows.
        UserError: A table is missing, unreadable or without images; or the store does not answer.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(RemoteTable, urls, repeat(columns)))
    if not any(len(table) for table in tables):
        raise NoImages(f"{', '.join(urls[:3])}: no rows in {'this table' if len(urls) == 1 else 'these tables'}")
    return tables


class RemoteTable:
    """An image source over one parquet file in a store, with the columns of `coterie.data.sources.parquet.ParquetTable`.

    Opening it reads the footer and the labels. The first image that is read loads its row group. When another row group
    is needed, the images of the whole table are unpacked to a local copy, an Arrow file that is mapped and may be removed
    later to make room.

    Args:
        url: Address of the table.
        columns: Which columns hold images and labels.

    Raises:
        UserError: The table is missing, unreadable or without images; or the store does not answer.
    """

    def __init__(self, url: str, columns: Columns = ANY_COLUMNS) -> None:
        self._columns = columns
        self._shard = remote_shard(url)
        self._group: tuple[int, pa.Array] | None = None  # number and images of the row group that was loaded
        self._paths: FileNames | None = None
        self._has_paths = True
        self._given = ImageLabels()

        def read_footer() -> None:
            with parquet.parquet_file(url) as file:
                self._column = parquet.image_column(url, file.schema_arrow, columns)
                self.image_remarks = parquet.image_remarks(file.schema_arrow, columns, self._column)
                self._unpacked_size = parquet.uncompressed_size(file, self._column)
                self._starts = [0, *accumulate(_rows_of_groups(file))]
                self._given = read_labels(url, file, columns)

        self._shard.retry(read_footer)
        self.labels, self.classes, self.label_notes = self._given.numbers, self._given.classes, self._given.notes
        self._key = self._shard.key  # of the copy
        if columns.image is not None:
            self._key = hashlib.sha256(f"{self._key}\0{self._column}".encode()).hexdigest()[:32]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes:
        """An encoded image.

        Raises:
            BadImage: The row has no bytes; or the table no longer exists, or has changed.
            UserError: The store does not answer, or there is no room to unpack the table.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        data = self._value(index).as_py()
        if data is None:
            raise BadImage("no bytes in this row of the table, and paths in a store are not followed")
        return bytes(data)

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the images, which are read again where they are needed."""
        return {**self.__dict__, "_group": None}

    def name(self, index: int) -> str:
        """The path of an image in the table, or else the name of the table and the zero-padded row."""
        if self._paths is None and self._has_paths:
            self._paths = self._shard.retry(self._read_paths)
            self._has_paths = self._paths is not None
        return (self._paths[index] if self._paths is not None else "") or parquet.row_name(self._shard.path, index)

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

    def stored_files(self) -> tuple[StoredFile, ...]:
        """The table itself, in the version in which it was opened."""
        return (self._shard.stored_file,)

    @property
    def label_matrix(self) -> LabelMatrix | None:
        """The labels of the images if they are lists, read on each access; None if no column holds lists of labels."""

        def read() -> LabelMatrix | None:
            with parquet.parquet_file(self._shard.path) as file:
                return read_label_matrix(file, self._columns)

        return self._shard.retry(read)

    @property
    def shard_layout(self) -> ShardLayout:
        """The table is one remote shard, of row groups."""
        return ShardLayout(np.array([0, len(self)]), True, np.array(self._starts[:-1], dtype=np.int64))

    def prefetch(self, start: int, stop: int) -> None:
        """Unpack the images of the table to this machine, whatever the range.

        Raises:
            BadImage: The table no longer exists, or has changed.
            UserError: The store does not answer, or there is no room.
        """
        size = self._shard.size + self._unpacked_size + 32 * len(self) + 2**16  # both files exist for a moment
        make_copy(self._key, size, self._unpack)

    def _value(self, index: int) -> pa.Scalar:
        for _ in range(3):
            copy = find_copy(self._key)
            if copy is None:
                value = self._value_in_group(index)
                if value is not None:
                    return value
                self.prefetch(0, len(self))
                continue
            self._group = None
            try:
                chunks, starts = _mapped(copy)
            except FileNotFoundError:  # it was just removed to make room
                continue
            chunk = bisect_right(starts, index) - 1
            return chunks[chunk][index - starts[chunk]]
        raise UserError(f"{self._shard.path}: its copy is removed as soon as it is made: set COTERIE_CACHE_GIB to more")

    def _value_in_group(self, index: int) -> pa.Scalar | None:
        """An image from its row group, if no other row group was needed before."""
        group = bisect_right(self._starts, index) - 1
        if self._group is None:
            self._group = group, self._shard.retry(partial(self._read_group, group))
        return self._group[1][index - self._starts[group]] if self._group[0] == group else None

    def _read_group(self, group: int) -> pa.Array:
        with parquet.parquet_file(self._shard.path) as file:
            images = file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
            return parquet.bytes_of(images)

    def _read_paths(self) -> FileNames | None:
        with parquet.parquet_file(self._shard.path) as file:
            return parquet.read_paths(file, self._column)

    def _unpack(self, target: Path) -> None:
        packed = target.with_suffix(".parquet")
        try:
            self._shard.download(packed)
            parquet.unpack_images(str(packed), self._column, target)
        finally:
            packed.unlink(missing_ok=True)


def _rows_of_groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]


@lru_cache(maxsize=_KEPT_MAPPED)
def _mapped(copy: Path) -> tuple[list[pa.Array], list[int]]:
    """The images of an unpacked table in chunks, and the first image of each chunk."""
    chunks = parquet.map_images(copy)
    return chunks, [0, *accumulate(len(chunk) for chunk in chunks)]
