"""Parquet tables in a store: unpacked one by one to copies of bounded size."""

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coterie.data.sources import parquet
from coterie.data.sources.blocks import ShardLayout
from coterie.data.sources.labels import LabelMatrix, Labels
from coterie.data.sources.local_cache import find_copy, make_copy
from coterie.data.sources.names import Names
from coterie.data.sources.object_store import located
from coterie.errors import BadImage, NoImages, UserError

_AT_ONCE = 16  # tables whose footers are read at the same time
_KEPT_MAPPED = 32  # copies that a process keeps mapped; a removed one takes room for as long


def open_remote_tables(urls: Sequence[str]) -> list["RemoteTable"]:
    """One source a table.

    Raises:
        NoImages: the tables have no rows.
        UserError: a table is missing, unreadable or without images; or the store stays away.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        tables = list(pool.map(RemoteTable, urls))
    if not any(len(table) for table in tables):
        raise NoImages(f"{', '.join(urls[:3])}: no rows in {'this table' if len(urls) == 1 else 'these tables'}")
    return tables


class RemoteTable:
    """An image source over one parquet file in a store; columns are found as in `coterie.data.sources.parquet.ParquetTable`.

    Opening reads the footer and the labels. The first image that is asked for brings its row group; where another row group
    is wanted, the images of the table are unpacked to an Arrow file, which is mapped and makes room for others later on.

    Raises:
        UserError: it is missing, unreadable or without images; or the store stays away.
    """

    def __init__(self, url: str) -> None:
        self._shard = located(url)
        self._group: tuple[int, pa.Array] | None = None  # the row group that was read last
        self._names: Names | None = None
        self._has_names = True
        self.labels: Labels | None
        self.classes: tuple[str, ...]

        def footer() -> None:
            with parquet.opened_table(url) as file:
                self._column = parquet.image_column(url, file.schema_arrow)
                self._unpacked = parquet.image_bytes(url, file)
                self._starts = [0, *accumulate(_rows_of_groups(file))]
                self.labels, self.classes = parquet.labels_of(file)

        self._shard.patiently(footer)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            BadImage: the row has no bytes; or the table is gone, or is not the one that was opened.
            UserError: the store stays away, or there is no room to unpack the table.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        data = self._value(index).as_py()
        if data is None:
            raise BadImage("no bytes in this row of the table")
        return bytes(data)

    def __getstate__(self) -> dict[str, object]:
        """The images are read again where they are needed."""
        return {**self.__dict__, "_group": None}

    def name(self, index: int) -> str:
        """The image's path in the table if it has one, else the table's name and the zero-padded row."""
        if self._names is None and self._has_names:
            self._names = self._shard.patiently(self._read_names)
            self._has_names = self._names is not None
        return parquet.row_name(self._shard.path, index) if self._names is None else self._names[index]

    def label(self, index: int) -> int | None:
        """The number of the image's class, or None."""
        return None if self.labels is None or self.labels[index] < 0 else int(self.labels[index])

    @property
    def label_matrix(self) -> LabelMatrix | None:
        """The labels of the images, where they are lists; read when they are asked for."""

        def read() -> LabelMatrix | None:
            with parquet.opened_table(self._shard.path) as file:
                return parquet.several_labels_of(file)

        return self._shard.patiently(read)

    @property
    def blocks(self) -> ShardLayout:
        """The table is one."""
        return ShardLayout(np.array([0, len(self)]), True)

    def prefetch(self, start: int, stop: int) -> None:
        """Have the images of the table unpacked on this machine; any range stands for all of it.

        Raises:
            BadImage: the table is gone, or is not the one that was opened.
            UserError: the store stays away, or there is no room.
        """
        size = self._shard.size + self._unpacked + 32 * len(self) + 2**16  # packed and unpacked, for a moment
        make_copy(self._shard.key, size, self._unpack)

    def _value(self, index: int) -> pa.Scalar:
        for _ in range(3):
            copy = find_copy(self._shard.key)
            if copy is None:
                group = self._group_of(index)
                if group is not None:
                    return group
                self.prefetch(0, len(self))
                continue
            self._group = None
            try:
                chunks, starts = _mapped(copy)
            except FileNotFoundError:  # it has just made room for another
                continue
            chunk = bisect_right(starts, index) - 1
            return chunks[chunk][index - starts[chunk]]
        raise UserError(f"{self._shard.path}: its copy is removed again at once: set COTERIE_CACHE_GIB to more")

    def _group_of(self, index: int) -> pa.Scalar | None:
        """The image from its row group, if that is the first one wanted."""
        group = bisect_right(self._starts, index) - 1
        if self._group is None:
            self._group = group, self._shard.patiently(partial(self._read_group, group))
        return self._group[1][index - self._starts[group]] if self._group[0] == group else None

    def _read_group(self, group: int) -> pa.Array:
        with parquet.opened_table(self._shard.path) as file:
            images = file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
            return parquet.only_bytes(images)

    def _read_names(self) -> Names | None:
        with parquet.opened_table(self._shard.path) as file:
            return parquet.paths_of(self._shard.path, file)

    def _unpack(self, target: Path) -> None:
        packed = target.with_suffix(".parquet")
        try:
            self._shard.download(packed)
            parquet.unpack(str(packed), self._column, target)
        finally:
            packed.unlink(missing_ok=True)


def _rows_of_groups(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]


@lru_cache(maxsize=_KEPT_MAPPED)
def _mapped(copy: Path) -> tuple[list[pa.Array], list[int]]:
    """The images of an unpacked table, and the first of each chunk."""
    chunks = parquet.mapped_images(copy)
    return chunks, [0, *accumulate(len(chunk) for chunk in chunks)]
