"""Datasets of Hugging Face on disk, without its library: what ``save_to_disk`` wrote, and the Arrow files of its cache."""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.file_names import FileNames
from coterie.data.sources.fingerprint import StoredFile, stored_file
from coterie.data.sources.labels import LabelMatrix, label_at
from coterie.data.sources.parquet import bytes_of, files_in_rows, image_column, image_in_row, rows_without_images
from coterie.data.sources.parquet import image_remarks as remarks_of
from coterie.data.sources.parquet_labels import read_label_matrix, read_labels
from coterie.errors import NoImages, UserError
from coterie.formatting import first_few

_STATE, _SPLITS = "state.json", "dataset_dict.json"


class ArrowTable:
    """An image source over Arrow files, mapped into memory, in the order of their rows.

    Columns are those of `coterie.data.sources.parquet.ParquetTable`. A row without bytes names a file, relative to the folder
    of the first Arrow file, or absolute.

    Args:
        where: The folder or file, for messages and names.
        files: The Arrow files, of the same columns.
        columns: Which columns hold images and labels.
        chosen: Arrow files of one column of row numbers: which rows there are, and in which order; () for all.

    Raises:
        NoImages: There are no rows.
        UserError: A file is missing, damaged or without images.
    """

    def __init__(
        self, where: str, files: Sequence[str], columns: Columns = ANY_COLUMNS, chosen: Sequence[str] = ()
    ) -> None:
        self._where, self._columns = where, columns
        self._files = [str(Path(file).absolute()) for file in files]
        self._chosen = [str(Path(file).absolute()) for file in chosen]
        self._open()
        if not len(self):
            raise NoImages(f"{where}: no rows in this dataset")
        given = read_labels(where, self._labels_of(), columns)
        self.labels, self.classes, self.label_notes = given.numbers, given.classes, given.notes
        schema = self._table.schema
        self.image_remarks = remarks_of(schema, columns, self._column)
        self.image_remarks += rows_without_images(where, self._chunks, self._paths)

    def __len__(self) -> int:
        return self._starts[-1] if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> bytes:
        """An encoded image: the bytes of its row, or those of the file whose path is in it.

        Raises:
            BadImage: The row has neither, or the file cannot be read.
        """
        row = self._row(index)
        chunk = bisect_right(self._starts, row) - 1
        path = b"" if self._paths is None else self._paths.raw(row)
        return image_in_row(self._chunks[chunk][row - self._starts[chunk]].as_py(), path, self._folder)

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the table, which is mapped again where it is needed."""
        return {**self.__dict__, "_table": None, "_chunks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Maps the files again."""
        self.__dict__ = state
        self._open()

    def name(self, index: int) -> str:
        """The path of an image in the table, or else the name of the dataset and the zero-padded row."""
        path = "" if self._paths is None else self._paths[self._row(index)]
        return path or f"{Path(self._where).stem}/{index:08d}"

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

    def files(self) -> tuple[bytes, ...]:
        """The paths of the Arrow files, the column of images if it was chosen, and the files that rows name."""
        chosen = () if self._columns.image is None else (os.fsencode(f"{self._files[0]}\0{self._column}"),)
        named = (os.path.join(os.fsencode(self._folder), name) for name in self._named())  # noqa: PTH118 -- bytes
        return (*map(os.fsencode, (*self._files, *self._chosen)), *chosen, *named)

    def stored_files(self) -> tuple[StoredFile, ...]:
        """The Arrow files, named below their folder, and the files that rows name."""
        split = [os.path.split(os.fsencode(file)) for file in (*self._files, *self._chosen)]
        named = (stored_file(os.fsencode(self._folder), name) for name in self._named())
        return (*(stored_file(folder, name) for folder, name in split), *named)

    @property
    def label_matrix(self) -> LabelMatrix | None:
        """The labels of the images if they are lists, read on each access; None if no column holds lists of labels."""
        return read_label_matrix(self._labels_of(), self._columns)

    @property
    def _folder(self) -> str:
        return str(Path(self._files[0]).parent)

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return index if self._rows is None else int(self._rows[index])

    def _named(self) -> Iterator[bytes]:
        return files_in_rows(self._chunks, self._paths)

    def _labels_of(self) -> "_Rows":
        return _Rows(self._where, self._table, self._rows)

    def _open(self) -> None:
        tables = [_mapped(file) for file in self._files]
        try:
            self._table = pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise UserError(f"{self._where}: its Arrow files have different columns") from error
        self._column = image_column(self._where, self._table.schema, self._columns)
        images = _checked(self._where, self._table, self._column.removesuffix(".bytes"))
        self._chunks = [bytes_of(chunk) for chunk in images.chunks]
        self._starts = [0, *accumulate(len(chunk) for chunk in self._chunks)]
        self._paths = _paths(images)
        self._rows = None
        if self._chosen:
            found = [_checked(file, table := _mapped(file), table.schema.names[0]) for file in self._chosen]
            self._rows = np.concatenate([each.to_numpy() for each in found])
            if self._rows.dtype.kind not in "iu" or not ((self._rows >= 0) & (self._rows < self._starts[-1])).all():
                raise UserError(f"{self._where}: damaged: it names rows that are not there; save it again")


class _Rows:
    """What is read of labels in a table, as of a parquet file."""

    def __init__(self, where: str, table: pa.Table, rows: np.ndarray | None) -> None:
        self._where, self._table, self._rows = where, table, rows
        self.num_rows = len(table) if rows is None else len(rows)

    @property
    def schema_arrow(self) -> pa.Schema:
        return self._table.schema

    @property
    def metadata(self) -> "_Rows":
        return self

    def read(self, columns: list[str]) -> pa.Table:
        (name,) = columns
        column = _checked(self._where, self._table, name)
        return pa.table({name: column if self._rows is None else column.take(pa.array(self._rows))})


def is_saved(folder: str) -> bool:
    """Whether a folder is a dataset that ``save_to_disk`` wrote, or several splits of one."""
    return any(Path(folder, name).is_file() for name in (_STATE, _SPLITS)) and not Path(folder, "config.toml").exists()


def open_saved(folder: str, columns: Columns = ANY_COLUMNS) -> ArrowTable:
    """Open a dataset that ``save_to_disk`` of Hugging Face's datasets wrote.

    Raises:
        NoImages: It has no rows.
        UserError: It is damaged or without images; or it holds several splits, of which it lists the names.
    """
    if Path(folder, _SPLITS).is_file():
        splits = sorted(each.parent.name for each in Path(folder).glob(f"*/{_STATE}"))
        if len(splits) == 1:
            return open_saved(str(Path(folder, splits[0])), columns)
        example = Path(folder, "train" if "train" in splits or not splits else splits[0])
        raise UserError(
            f"{folder}: a dataset of the splits {first_few(splits, ', ')}: name one or more, such as {example}"
        )
    try:
        state = json.loads(Path(folder, _STATE).read_text("utf-8"))
        parts = [[str(Path(folder, each["filename"])) for each in state.get(key) or ()] for key in _PARTS]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder}: {_STATE} of this dataset cannot be read; save it again") from error
    if not parts[0]:
        raise NoImages(f"{folder}: this dataset has no Arrow files")
    return ArrowTable(folder, parts[0], columns, parts[1])


_PARTS = ("_data_files", "_indices_data_files")


def _mapped(file: str) -> pa.Table:
    """An Arrow file, mapped into memory: a stream, as the library writes it, or a file."""
    try:
        with pa.memory_map(file) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source).read_all()
            _ = table.schema.names  # are text
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a readable Arrow file ({' '.join(str(error).split())[:160]})") from error
    return table


def _checked(where: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column whose offsets lie within its data, which nothing else checks of a file that is mapped."""
    column = table.column(name)
    try:
        column.validate(full=True)
    except pa.ArrowException as error:
        raise UserError(f"{where}: damaged ({' '.join(str(error).split())[:160]})") from error
    return column


def _paths(images: pa.ChunkedArray) -> FileNames | None:
    if not pa.types.is_struct(images.type) or images.type.get_field_index("path") < 0:
        return None
    paths = pc.struct_field(images, "path").to_pylist()
    return FileNames(str(path or "").encode("utf-8", "surrogateescape") for path in paths)
