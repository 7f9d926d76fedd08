"""Pages of TIFF files as images: each page of a stack is an image of its own."""

import io
import os
import stat
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt

from coterie.data.decoding.decode import StoredImage
from coterie.data.decoding.tiff import is_tiff
from coterie.data.decoding.tiff_pages import WHOLE, copied_page, find_pages, patched_page
from coterie.data.sources.columns import Columns
from coterie.data.sources.file_names import FileNames, printable
from coterie.data.sources.label_values import LabelNotes
from coterie.data.sources.labels import LabelMatrix
from coterie.data.sources.sampled_names import sampled_names
from coterie.data.sources.shard_layout import ShardLayout
from coterie.data.sources.source import (
    Concatenated,
    ImageSource,
    Subset,
    image_remarks,
    label_matrix,
    label_notes,
    labels,
    shard_layout,
)
from coterie.errors import BadImage, UserError
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted


class Pages:
    """The pages of the images of a source, in its order; each has the labels of its file.

    Args:
        source: The images.
        places: For each page, the position of its file in the source; ascending.
        offsets: For each page, where it is in its file; `WHOLE`: the file is one image.
    """

    def __init__(self, source: ImageSource, places: Int[np.ndarray, " n"], offsets: UInt[np.ndarray, " n"]) -> None:
        self.source, self.places, self.offsets = source, places, offsets
        self.classes = source.classes
        self.sources: tuple[ImageSource, ...] = getattr(source, "sources", (source,))
        self._firsts = np.searchsorted(places, np.arange(len(source) + 1))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> StoredImage:
        """The file, with this page as its only one.

        Raises:
            BadImage: The file or the page cannot be read.
        """
        place, offset = self._place(index), int(self.offsets[index])
        path = file_path(self.source, place) if offset != WHOLE else None
        page = None if path is None else _copied(path, offset)
        if page is not None:
            return page
        data = self.source[place]
        if offset == WHOLE or not isinstance(data, bytes):
            return data
        page = copied_page(io.BytesIO(data), offset) if is_tiff(data) else None
        return patched_page(data, offset) if page is None else page

    def name(self, index: int) -> str:
        """The name of the file, with the number of the page: ``stack.tif#1``; that of a file of one page as it is."""
        return self.numbered(self.source.name(self._place(index)), index)

    def numbered(self, name: str, index: int) -> str:
        """Any name of the file of a page, with the number of the page."""
        first = int(self._firsts[self.places[index]])
        return f"{name}#{index - first + 1}" if self.offsets[index] != WHOLE else name

    def label(self, index: int) -> int | None:
        """The class number of the file, or None."""
        return self.source.label(self._place(index))

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The class numbers of all pages, -1 for none."""
        found: Int[np.ndarray, " n"] = labels(self.source)[self.places]
        return found

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of all pages."""
        return label_matrix(self.source)[self.places]

    @property
    def label_notes(self) -> LabelNotes:
        """What there is to say about the labels of the files."""
        return label_notes(self.source)

    @property
    def image_remarks(self) -> tuple[str, ...]:
        """Lines about how the files were found."""
        return image_remarks(self.source)

    @property
    def shard_layout(self) -> ShardLayout:
        """The shards of the source, counted in pages."""
        stored = shard_layout(self.source)
        return ShardLayout(
            self._firsts[stored.starts], False, None if stored.blocks is None else self._firsts[stored.blocks]
        )

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return int(self.places[index])


def with_pages(source: ImageSource, columns: Columns, logger: Logger | None = None) -> ImageSource:
    """A source whose images are pages, if that is what the user wants; otherwise the source as it is.

    Of files, this reads the headers; of tables and shards, every image.

    Args:
        source: the images.
        columns: says whether pages are images.
        logger: receives the progress.

    Raises:
        UserError: the images are in a store.
    """
    if columns.pages != "all" or isinstance(source, Pages):
        return source
    if shard_layout(source).remote:
        raise UserError("--pages all reads every image to count its pages, which a store is too slow for: copy it here")
    places, offsets = list[int](), list[int]()
    count = len(source)
    for place in (logger or NullLogger()).progress(range(count), count, "counting pages"):
        check_interrupted()
        for offset in _pages_of(source, place):
            places.append(place)
            offsets.append(offset)
    if not any(offsets):
        return source
    return Pages(source, np.array(places, dtype=np.int64), np.array(offsets, dtype=np.uint64))


def file_path(source: ImageSource, index: int) -> bytes | None:
    """The path of an image that is a file of its own; None of any other."""
    if isinstance(source, Pages):
        return file_path(source.source, int(source.places[index])) if source.offsets[index] == WHOLE else None
    if isinstance(source, Concatenated):
        number, row = source.find(index)
        return file_path(source.sources[number], row)
    if isinstance(source, Subset):
        return file_path(source.source, int(source.positions[index]))
    path = getattr(source, "path", None)
    return os.path.abspath(path(index)) if callable(path) else None  # noqa: PTH100 -- bytes


def pages_remark(where: str, root: bytes, names: FileNames | Sequence[bytes], columns: Columns) -> tuple[str, ...]:
    """A line if some of a sample of TIFF files hold several pages, of which only the first is read.

    Args:
        where: the source, for the message.
        root: the folder of its files.
        names: their names below it.
        columns: says whether pages are images.
    """
    if columns.pages == "all":
        return ()
    for name in sampled_names(names, (b".tif", b".tiff")):
        pages = len(_pages_of_file(os.path.join(root, name)))  # noqa: PTH118 -- bytes
        if pages > 1:
            return (
                f"{where}: of TIFF files of several pages ({printable(name)} has {pages:,}), the first is the image, or "
                "pages are channels if views.channels is their number; with --pages all, each page is an image",
            )
    return ()


def _pages_of(source: ImageSource, place: int) -> list[int]:
    path = file_path(source, place)
    if path is not None:
        return _pages_of_file(path)
    try:
        data = source[place]
    except BadImage:
        return [WHOLE]
    return find_pages(io.BytesIO(data)) if isinstance(data, bytes) else [WHOLE]


def _pages_of_file(path: bytes) -> list[int]:
    try:
        with _opened(path) as file:
            return find_pages(file)
    except OSError:  # reading the image will say so
        return [WHOLE]


def _copied(path: bytes, offset: int) -> bytes | None:
    try:
        with _opened(path) as file:
            return copied_page(file, offset)
    except OSError:  # as above
        return None


def _opened(path: bytes) -> io.FileIO:
    # tifffile wants the name. Without O_NONBLOCK, opening a named pipe would wait forever.
    file = open(os.fsdecode(path), "rb", buffering=0, opener=_open_file)  # noqa: SIM115 -- the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError("not a regular file")


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
