"""File names: which are images, and millions of them in little memory."""

from array import array
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa

HEIF_SUFFIXES, DICOM_SUFFIXES = (".heic", ".heif", ".hif"), (".dcm", ".dicom", ".ima")
"""Endings of images that need a package more: the extras ``heif`` and ``dicom``."""
# Names of images in folders, globs and tar shards. A text list may name any file: its content decides.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    *(HEIF_SUFFIXES if find_spec("pillow_heif") else ()),
    *(DICOM_SUFFIXES if find_spec("pydicom") else ()),
)
_ESCAPES = {ord(each): each.encode("unicode_escape").decode() for each in "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"}
_AT_ONCE = 2**14  # names that are joined at once
_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)


def is_image_name(name: bytes) -> bool:
    """Whether a file name is that of an image: a known suffix in any case, and not hidden."""
    return name.lower().endswith(_SUFFIXES) and not name.rpartition(b"/")[2].startswith(b".")


def printable(name: bytes) -> str:
    r"""A file name as text that can always be printed and stored; bytes that are not UTF-8 become ``\xff``."""
    return name.decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    r"""A name in a list with one entry per line: a line break becomes ``\n``, a tab ``\t``, a backslash stays as it is."""
    return text.translate(_ESCAPES)


class FileNames:
    """A sequence of names in one buffer of bytes and an array of ends: 8 bytes per name more than the names themselves.

    A list of Python strings takes about 60 bytes more per name. Worse, every forked worker that reads a string writes its
    reference count, so that in time each worker holds a copy of all of them. Reading this sequence writes nothing.

    Args:
        names: The names as they are on disk.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        buffer, ends, waiting = bytearray(), array("q", [0]), iter(names)
        while some := list(islice(waiting, _AT_ONCE)):
            lengths = np.fromiter(map(len, some), np.int64, len(some))
            ends.frombytes((len(buffer) + np.cumsum(lengths)).tobytes())
            buffer += b"".join(some)
        self._buffer = bytes(buffer)
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        """The names as they are on disk."""
        return (self._buffer[start:end] for start, end in pairwise(self._ends))

    def as_arrow(self) -> pa.LargeBinaryArray:
        """The names as they are on disk, without copying them."""
        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._buffer)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self), buffers)

    def __getitem__(self, index: int) -> str:
        """A name as text (see `printable`)."""
        return printable(self.raw(index))

    def raw(self, index: int) -> bytes:
        """A name as it is on disk.

        Raises:
            IndexError: There is no such name.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._buffer[self._ends[index] : self._ends[index + 1]]
