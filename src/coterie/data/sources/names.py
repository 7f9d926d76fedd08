"""The names of millions of images in little memory, and which names are those of images."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise

# What is taken for an image in a folder, a glob or a tar shard. A text list may name any file: its content decides.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".avif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"),
)
_SUFFIXES = tuple(suffix.encode() for suffix in SUFFIXES)


def is_image_name(name: bytes) -> bool:
    """Whether a file of this name is taken for an image: a known suffix in any case, and not hidden."""
    return name.lower().endswith(_SUFFIXES) and not name.rpartition(b"/")[2].startswith(b".")


def text(name: bytes) -> str:
    r"""A name as text that can always be printed and stored; bytes that are not UTF-8 are written as ``\xff``."""
    return name.decode("utf-8", "backslashreplace")


class Names:
    """A sequence of names in one buffer of bytes and one array of ends: 8 bytes an image above the names themselves.

    A list of Python strings costs some 60 bytes more a name, and every forked worker that looks at a string writes its
    reference count, so that sooner or later each worker holds its own copy of them all. Here nothing is written.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for name in names:
            buffer += name
            ends.append(len(buffer))
        self._buffer = bytes(buffer)
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        """The names as they are on disk, one after another."""
        return (self._buffer[start:end] for start, end in pairwise(self._ends))

    def __getitem__(self, index: int) -> str:
        """The name as text (see `text`)."""
        return text(self.raw(index))

    def raw(self, index: int) -> bytes:
        """The name as it is on disk.

        Raises:
            IndexError: there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self._buffer[self._ends[index] : self._ends[index + 1]]
