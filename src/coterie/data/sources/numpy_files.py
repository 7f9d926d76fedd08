"""Files of NumPy: a ``.npy`` of images, or a ``.npz`` of images and labels."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from coterie.data.sources.columns import ANY_COLUMNS, LABEL_NAMES, Columns, find_columns
from coterie.data.sources.fingerprint import StoredFile, stored_file
from coterie.data.sources.items import KEYS, WrongItem, check_array, describe
from coterie.data.sources.labels import LabelMatrix, Labels, label_at
from coterie.data.sources.own_labels import encode_own_labels
from coterie.errors import UserError


class NumpyFile:
    """An image source over a file of NumPy, in the order of its rows.

    A ``.npy`` is mapped into memory and read as it is needed; the arrays of a ``.npz`` are held in memory. Nothing is
    unpickled.

    Args:
        path: The file. A ``.npz`` has its images under a usual name such as ``images``, ``x`` or ``arr_0``, and may have labels
            under one such as ``labels`` or ``y``: numbers, names, or one column of zeros and ones per class.
        columns: The names of its images and labels, if they are others.

    Raises:
        UserError: There are no images in it, or it is missing, damaged or holds something else.
    """

    def __init__(self, path: str, columns: Columns = ANY_COLUMNS) -> None:
        self._path = str(Path(path).absolute())
        names = _names(self._path)
        self._name = names[0] if names == [""] else _choose(path, names, KEYS, columns.image, "image")
        self._images = _read(self._path, self._name)
        try:
            check_array(self._images)
        except UserError as error:
            inside = f" {self._name!r}" if self._name else ""
            raise UserError(f"{path}:{inside} {error}") from None
        self.labels: Labels | None = None
        self.label_matrix: LabelMatrix | None = None
        self.classes: tuple[str, ...] = ()
        if self._name:
            others = [name for name in names if name != self._name]
            chosen = _choose(path, others, LABEL_NAMES, columns.label, "label")
            if chosen:
                self._read_labels(path, chosen)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> UInt[np.ndarray, "..."]:
        """An image ``[H, W]`` or ``[H, W, C]``."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return np.asarray(self._images[index])

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the images, which are read again where they are needed."""
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the file again."""
        self.__dict__ = state
        self._images = _read(self._path, self._name)

    def name(self, index: int) -> str:
        """The name of the file and the zero-padded row."""
        return f"{Path(self._path).name}/{index:08d}"

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

    def files(self) -> tuple[bytes, ...]:
        """The path of the file."""
        return (os.fsencode(self._path),)

    def stored_files(self) -> tuple[StoredFile, ...]:
        """The file itself, named below its folder."""
        folder, name = os.path.split(os.fsencode(self._path))
        return (stored_file(folder, name),)

    def _read_labels(self, path: str, name: str) -> None:
        labels = _read(self._path, name)
        if labels.ndim not in (1, 2) or len(labels) != len(self):
            raise UserError(f"{path}: {name!r} is {describe(labels)}: give one label for each of {len(self)} images")
        try:
            known = encode_own_labels(list(labels))
        except WrongItem as error:
            raise UserError(f"{path}: a label of {name!r} {error}") from None
        self.labels, self.label_matrix, self.classes = known.numbers, known.matrix, known.classes


def _choose(path: str, names: list[str], known: tuple[str, ...], wanted: str | None, what: str) -> str:
    """The name of the array that holds the images or the labels; empty: there are no labels.

    Raises:
        UserError: there are no images under a common name, or no array of the wanted name.
    """
    found = find_columns(names, known, wanted, what, path)
    if not found and what == "image":
        raise UserError(
            f"{path}: none of its arrays has a usual name, such as images: name one with --image-column; the arrays are: "
            f"{', '.join(names)}"
        )
    return found[0] if found else ""


def _names(path: str) -> list[str]:
    """The names of the arrays in a file; that of a ``.npy`` is empty."""
    if not _is_archive(path):
        return [""]
    with _archive(path) as file:
        return list(file.files)


def _read(path: str, name: str) -> np.ndarray:
    """An array of a file, mapped into memory where that is possible."""
    if name:
        with _archive(path) as file:
            return np.asarray(file[name])
    with _explaining(path):
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped


def _is_archive(path: str) -> bool:
    """Whether a file is a ``.npz``, by its ending, and begins as one does; else it begins as a ``.npy`` does."""
    archive = path.lower().endswith(".npz")
    with _explaining(path), Path(path).open("rb") as file:
        if not file.read(6).startswith(b"PK" if archive else b"\x93NUMPY"):
            raise ValueError("begins otherwise")
    return archive


@contextmanager
def _archive(path: str) -> Iterator[Any]:
    with _explaining(path), Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        yield file


@contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Context in which an error of NumPy becomes one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise UserError(
                f"{path}: holds Python objects, which are never unpickled: save arrays of numbers or texts, all images of "
                "one size"
            ) from error
        raise UserError(
            f"{path}: damaged, or no file of NumPy: save it again with numpy.save or numpy.savez"
        ) from error
