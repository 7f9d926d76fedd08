"""Parquet tables with a column of encoded images (the convention of Hugging Face)."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coterie.data.sources.columns import ANY_COLUMNS, IMAGE_NAMES, Columns, choice_remark, find_columns
from coterie.data.sources.file_names import FileNames
from coterie.data.sources.files import read_file
from coterie.data.sources.fingerprint import StoredFile, stored_file
from coterie.data.sources.labels import LabelMatrix, label_at
from coterie.data.sources.local_cache import unpacked_table
from coterie.data.sources.object_store import is_remote, open_stream
from coterie.data.sources.parquet_labels import read_label_matrix, read_labels
from coterie.errors import BadImage, NoImages, UserError

MEMORY_LIMIT = 2**30  # bytes of images that are held in memory; larger tables are unpacked once and mapped


def open_tables(
    paths: Sequence[str], columns: Columns = ANY_COLUMNS, memory_limit: int = MEMORY_LIMIT
) -> list["ParquetTable"]:
    """Open tables, one source each; all are held in memory if their images fit into ``memory_limit`` bytes together.

    Tables in a store are opened by `coterie.data.sources.remote_parquet.open_remote_tables`.

    Raises:
        NoImages: The tables have no rows.
        UserError: A table is missing, unreadable or without images; or there is no room to unpack them.
    """
    in_memory = sum(_size_of_images(path, columns) for path in paths) <= memory_limit
    tables = [ParquetTable(path, in_memory, columns) for path in paths]
    if not any(len(table) for table in tables):
        raise NoImages(f"{', '.join(paths[:3])}: no rows in {'this table' if len(paths) == 1 else 'these tables'}")
    return tables


class ParquetTable:
    """An image source over one parquet file, in the order of its rows.

    Images are in the column ``image`` (or another of the usual names, or the only column of bytes), as bytes or Hugging
    Face's struct of ``bytes`` and ``path``. An optional column ``label`` (or another of the usual names) holds integers,
    truth values or class names; Hugging Face's metadata names the integers. If it holds lists, they are in `label_matrix`.
    A folder ``label=cat`` around the table is such a column as well.

    Args:
        path: The file.
        in_memory: Hold the images in memory. Otherwise, they are unpacked once to an Arrow file, which is mapped (see
            `coterie.data.sources.local_cache`).
        columns: Which columns hold images and labels.

    Raises:
        UserError: The table is missing, unreadable or without images; or there is no room to unpack it.
    """

    def __init__(self, path: str, in_memory: bool = True, columns: Columns = ANY_COLUMNS) -> None:
        self._path = str(Path(path).absolute())
        self._in_memory = in_memory
        self._columns = columns
        with parquet_file(path) as file:
            self._column = image_column(path, file.schema_arrow, columns)
            self.image_remarks = image_remarks(file.schema_arrow, columns, self._column)
            self._rows = int(file.metadata.num_rows)
            self._paths = read_paths(file, self._column)
            given = read_labels(self._path, file, columns)
        self.labels, self.classes, self.label_notes = given.numbers, given.classes, given.notes
        self._open()
        self.image_remarks += rows_without_images(path, self._chunks, self._paths)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> bytes:
        """An encoded image: the bytes of its row, or those of the file whose path is in it.

        Raises:
            BadImage: The row has neither, or the file cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if not self._chunks:  # in another process
            self._open()
        chunk = bisect_right(self._starts, index) - 1
        data = self._chunks[chunk][index - self._starts[chunk]].as_py()
        path = b"" if self._paths is None else self._paths.raw(index)
        return image_in_row(data, path, str(Path(self._path).parent))

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the images, which are read again where they are needed."""
        return {**self.__dict__, "_chunks": []}

    def name(self, index: int) -> str:
        """The path of an image in the table, or else the name of the table and the zero-padded row."""
        return (self._paths[index] if self._paths is not None else "") or row_name(self._path, index)

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

    def files(self) -> tuple[bytes, ...]:
        """The path of the table, the column of its images if it was chosen, and the files that its rows name."""
        chosen = () if self._columns.image is None else (os.fsencode(f"{self._path}\0{self._column}"),)
        folder = os.path.dirname(os.fsencode(self._path))  # noqa: PTH120 -- bytes
        named = (os.path.join(folder, name) for name in self._named())  # noqa: PTH118 -- bytes
        return (os.fsencode(self._path), *chosen, *named)

    def stored_files(self) -> tuple[StoredFile, ...]:
        """The table itself, named below its folder, and the files that its rows name."""
        folder, name = os.path.split(os.fsencode(self._path))
        return (stored_file(folder, name), *(stored_file(folder, each) for each in self._named()))

    @property
    def label_matrix(self) -> LabelMatrix | None:
        """The labels of the images if they are lists, read on each access; None if no column holds lists of labels."""
        with parquet_file(self._path) as file:
            return read_label_matrix(file, self._columns)

    def _named(self) -> Iterator[bytes]:
        if not self._chunks:  # in another process
            self._open()
        return files_in_rows(self._chunks, self._paths)

    def _open(self) -> None:
        if self._in_memory:
            self._chunks = list(image_chunks(self._path, self._column))
        else:
            write = partial(unpack_images, self._path, self._column)
            self._chunks = map_images(
                unpacked_table(self._path, self._column, _size_of_images(self._path, self._columns), write)
            )
        self._starts = [0, *accumulate(len(chunk) for chunk in self._chunks)]
        if self._starts[-1] != self._rows:
            raise UserError(
                f"{self._path}: damaged: its footer says {self._rows} rows, but it has {self._starts[-1]}; fetch it again"
            )


@contextmanager
def parquet_file(path: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file; from a store, only what is used is read.

    Raises:
        UserError: It is missing or damaged.
        Exception: Any error of the store (see `coterie.data.sources.object_store.retry`).
    """
    try:
        with (
            open_stream(path) if is_remote(path) else nullcontext(path) as where,
            pq.ParquetFile(where, pre_buffer=is_remote(path)) as file,
        ):
            yield file
    except (OSError, pa.ArrowException) as error:
        if is_remote(path) and not isinstance(error, pa.ArrowInvalid):
            raise
        raise UserError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:160]})") from error


def image_column(path: str, schema: pa.Schema, columns: Columns = ANY_COLUMNS) -> str:
    """The column that holds the images, in the notation of Arrow's reader: ``image``, or ``image.bytes`` in a struct.

    Raises:
        UserError: There is none, or several are possible.
    """
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    there = ", ".join(schema.names)
    found = find_columns(schema.names, IMAGE_NAMES, columns.image, "image", path)
    if columns.image is not None and found[0] not in candidates:
        kind = schema.field(found[0]).type
        raise UserError(f"{path}: column {found[0]!r} holds no bytes of images ({kind}); the columns are: {there}")
    fitting = [name for name in found if name in candidates] or (candidates if len(candidates) == 1 else [])
    if fitting:
        return f"{fitting[0]}.bytes" if pa.types.is_struct(schema.field(fitting[0]).type) else str(fitting[0])
    if candidates:
        raise UserError(f"{path}: which column holds the images? Choose with --image-column; the columns are: {there}")
    raise UserError(f"{path}: no column of images (bytes, or a struct with bytes); the columns are: {there}")


def image_remarks(schema: pa.Schema, columns: Columns, column: str) -> tuple[str, ...]:
    """A line about the column of images, if others have common names of such columns and hold bytes, too."""
    chosen = column.removesuffix(".bytes") if column not in schema.names else column
    found = find_columns(schema.names, IMAGE_NAMES, None, "image", "") if columns.image is None else []
    others = [name for name in found if name != chosen and _holds_bytes(schema.field(name).type)]
    return choice_remark(chosen, map(repr, others), "image")


def holds_images(path: str, columns: Columns) -> bool:
    """Whether a table holds images, or rather paths of images.

    Raises:
        UserError: It is missing, unreadable or without either.
    """
    with parquet_file(path) as file:
        schema = file.schema_arrow
    try:
        image_column(path, schema, columns)
    except UserError:
        names = find_columns(schema.names, IMAGE_NAMES, columns.image, "image", path)
        kinds = [schema.field(name).type for name in names]
        if any(_holds_bytes(field.type) for field in schema) or not any(map(_holds_text, kinds)):
            raise
        return False
    return True


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # an image without bytes, as Hugging Face writes it
        return kind.get_field_index("path") >= 0 and _holds_text(kind.field("path").type)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def uncompressed_size(file: pq.ParquetFile, column: str) -> int:
    """The uncompressed size of all images of a table in bytes, from its footer."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(leaf.total_uncompressed_size for leaf in columns if leaf.path_in_schema == column)


def _size_of_images(path: str, columns: Columns) -> int:
    with parquet_file(path) as file:
        return uncompressed_size(file, image_column(path, file.schema_arrow, columns))


def image_chunks(path: str, column: str) -> Iterator[pa.Array]:
    """The encoded images, some rows at a time."""
    with parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=512, columns=[column]):
            yield bytes_of(batch.column(0))


def bytes_of(images: pa.Array) -> pa.Array:
    """The bytes of a column of images, which may be structs."""
    return pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images


def read_paths(file: pq.ParquetFile, column: str) -> FileNames | None:
    """The paths of the images of a table, empty where one is missing; None if there is no column of them."""
    schema = file.schema_arrow
    column = column if column in schema.names else column.removesuffix(".bytes")
    kind = schema.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return None
    paths = pc.struct_field(file.read(columns=[f"{column}.path"]).column(0), "path").to_pylist()
    return FileNames((path or "").encode("utf-8", "surrogateescape") for path in paths)


def image_in_row(data: bytes | None, path: bytes, folder: str) -> bytes:
    """The image of a row: its bytes, or else the file that it names.

    Args:
        data: The bytes of the row; None without any.
        path: The path in the row, relative to the folder or absolute; empty without any.
        folder: The folder of the table.

    Raises:
        BadImage: The row has neither, or the file cannot be read.
    """
    if data is not None:
        return data
    if not path:
        raise BadImage("no bytes in this row of the table, and no path")
    file = os.path.join(os.fsencode(folder), path)  # noqa: PTH118 -- bytes
    try:
        return read_file(file)
    except BadImage as error:
        raise BadImage(f"the file of this row, {os.fsdecode(file)}: {error}") from error


def null_rows(chunks: Iterable[pa.Array]) -> Iterator[int]:
    """The rows that hold no bytes."""
    start = 0
    for chunk in chunks:
        if chunk.null_count:
            yield from (start + np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))).tolist()
        start += len(chunk)


def files_in_rows(chunks: Iterable[pa.Array], paths: FileNames | None) -> Iterator[bytes]:
    """The paths in rows that hold no bytes."""
    return (paths.raw(row) for row in null_rows(chunks) if paths.raw(row)) if paths is not None else iter(())


def rows_without_images(where: str, chunks: Iterable[pa.Array], paths: FileNames | None) -> tuple[str, ...]:
    """A line about rows that have neither bytes nor a path; none if all have."""
    bare = sum(paths is None or not paths.raw(row) for row in null_rows(chunks))
    if not bare:
        return ()
    rows = "row holds neither an image nor a path: it counts as a bad image"
    if bare > 1:
        rows = "rows hold neither an image nor a path: they count as bad images"
    return (f"{where}: {bare:,} {rows}",)


def row_name(path: str, row: int) -> str:
    """A name for an image that has none: the name of its table and the zero-padded row."""
    return f"{Path(path).stem}/{row:08d}"


def unpack_images(path: str, column: str, target: Path) -> None:
    """Write the images of a table to an Arrow file."""
    with pa.OSFile(str(target), "wb") as sink:
        writer = None
        for images in image_chunks(path, column):
            batch = pa.record_batch([images], names=["image"])
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()


def map_images(unpacked: Path) -> list[pa.Array]:
    """Map the images of an unpacked table into memory; they stay on disk until they are read.

    Raises:
        UserError: The file is damaged.
    """
    if not unpacked.stat().st_size:  # a table without rows
        return []
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(unpacked)))
        return [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{unpacked}: this unpacked table is damaged; delete it, and it is made again") from error
