"""Pages of TIFF files as images: each page of a stack is an image of its own."""

import io
import os
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt

from coterie.data.decoding.decode import StoredImage
from coterie.data.decoding.tiff import is_tiff, pages_are_channels
from coterie.data.sources.columns import Columns
from coterie.data.sources.dicom_frames import sampled_names
from coterie.data.sources.file_names import FileNames, printable
from coterie.data.sources.label_values import LabelNotes
from coterie.data.sources.labels import LabelMatrix
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

WHOLE = 0
"""In place of the offset of a page: the file is one image, and is read as it is."""
_DESCRIPTION, _SUBFILE = 270, 254
_NO_PAGE = 0b101  # of NewSubfileType: a smaller version of another page, or a mask of its transparent parts
_ASCII, _SHORT = 2, 3
_MOST_TAGS = 2**16


class _Layout(NamedTuple):
    """How a TIFF file is written.

    Attributes:
        first: where the offset of the first page is.
        number: how many tags a page has.
        pointer: an offset in the file.
        tag: a tag: its number, the type and number of its values, and where they are or, as bytes, what they are.
        order: ``<`` or ``>``.
    """

    first: int
    number: struct.Struct
    pointer: struct.Struct
    tag: struct.Struct
    order: str


def _layout(head: bytes) -> _Layout:
    order, wide = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    count, pointer, tag = (
        struct.Struct(order + each) for each in (("Q", "Q", "HHQ8s") if wide else ("H", "I", "HHI4s"))
    )
    return _Layout(8 if wide else 4, count, pointer, tag, order)


def find_pages(file: io.BytesIO | io.FileIO) -> list[int]:
    """The offsets of the pages of a file; ``[WHOLE]`` of a file that is one image, or no TIFF.

    Smaller versions of a page (thumbnails, pyramids) and masks of transparency are no pages, and pages that are the channels
    of one image stay together. A page that cannot be read counts as one, so that it is found to be a bad image; a file whose
    pages form a circle is one bad image.
    """
    head = _read(file, 0, 16)
    if not is_tiff(head):
        return [WHOLE]
    layout, seen, found = _layout(head), list[int](), list[int]()
    known, place = set[int](), layout.first
    while True:
        link = _read(file, place, layout.pointer.size)
        offset = layout.pointer.unpack(link)[0] if len(link) == layout.pointer.size else 0
        if not offset:
            break
        if offset in known:
            return [WHOLE]
        known.add(offset)
        seen.append(offset)
        tags = _tags(file, offset, layout)
        if tags is None or not _subfile(tags, layout) & _NO_PAGE:
            found.append(offset)
        if tags is None:
            break
        place = offset + layout.number.size + len(tags) * layout.tag.size
    if not found or found == seen[:1]:
        return [WHOLE]
    return [WHOLE] if len(found) > 1 and pages_are_channels(file) else found


def one_page(data: bytes, offset: int) -> bytes:
    """A TIFF file as if this were its only page, of which nothing describes a stack.

    Args:
        data: the file.
        offset: of the page, one of `find_pages`.

    Raises:
        BadImage: there is no page.
    """
    layout, changed = _layout(data), bytearray(data)
    tags = _tags(io.BytesIO(data), offset, layout)
    if tags is None:
        raise BadImage(f"truncated or damaged (no page at byte {offset} of this TIFF file)")
    place = offset + layout.number.size
    for number, (tag, *_) in enumerate(tags):
        if tag == _DESCRIPTION:  # it may say how many pages there are, and what they mean
            layout.tag.pack_into(changed, place + number * layout.tag.size, tag, _ASCII, 1, b"")
    layout.pointer.pack_into(changed, place + len(tags) * layout.tag.size, 0)
    layout.pointer.pack_into(changed, layout.first, offset)
    return bytes(changed)


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
        data, offset = self.source[self._place(index)], int(self.offsets[index])
        return one_page(data, offset) if offset and isinstance(data, bytes) else data

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
        # tifffile wants the name. Without O_NONBLOCK, opening a named pipe would wait forever.
        with open(os.fsdecode(path), "rb", buffering=0, opener=_open_file) as file:
            return find_pages(file) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else [WHOLE]
    except OSError:  # reading the image will say so
        return [WHOLE]


def _open_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _read(file: io.BytesIO | io.FileIO, start: int, count: int) -> bytes:
    """Some bytes; fewer where the file ends, or where no file has any."""
    if start >= 2**63 - _MOST_TAGS * 20:
        return b""
    file.seek(start)
    return file.read(count)


def _tags(file: io.BytesIO | io.FileIO, offset: int, layout: _Layout) -> list[tuple[int, int, int, bytes]] | None:
    """The tags of a page; None if the file ends before them or before the link to the next page, or there are none."""
    raw = _read(file, offset, layout.number.size)
    count = layout.number.unpack(raw)[0] if len(raw) == layout.number.size else 0
    if not 0 < count < _MOST_TAGS:
        return None
    size = count * layout.tag.size
    stored = _read(file, offset + layout.number.size, size + layout.pointer.size)
    return list(layout.tag.iter_unpack(stored[:size])) if len(stored) == size + layout.pointer.size else None


def _subfile(tags: Sequence[tuple[int, int, int, bytes]], layout: _Layout) -> int:
    """What kind of page it is; 0 for a full image."""
    value = next((tag for tag in tags if tag[0] == _SUBFILE), None)
    if value is None:
        return 0
    kind = "H" if value[1] == _SHORT else "I"
    return int(struct.unpack_from(layout.order + kind, value[3])[0])
