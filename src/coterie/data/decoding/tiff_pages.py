"""The pages of a TIFF file: where they are, and each of them as a file of its own."""

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

from coterie.data.decoding.tiff import is_tiff, pages_are_channels
from coterie.errors import BadImage

WHOLE = 0
"""In place of the offset of a page: the file is one image, and is read as it is."""
_SUBFILE, _COMPRESSION, _DESCRIPTION, _SUB_PAGES, _EXIF, _GPS, _INTEROPERABILITY = (
    254,
    259,
    270,
    330,
    34665,
    34853,
    40965,
)
_DATA = {273: 279, 324: 325}  # the tags of where strips and tiles are, and those of how long they are
_DESCRIBING = (_DESCRIPTION, _SUB_PAGES, _EXIF, _GPS, _INTEROPERABILITY)
_OLD_JPEG = 6  # whose tables are elsewhere in the file
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE_NUMBERS = {3: "H", 4: "I", 16: "Q"}
_NO_PAGE = 0b101  # of NewSubfileType: a smaller version of another page, or a mask of its transparent parts
_ASCII, _SHORT = 2, 3
_MOST_TAGS = 2**16
_LARGEST_CLASSIC = 2**32 - 2**22  # bytes that a classic file has room for, besides its tags

_Tag = tuple[int, int, int, bytes]
"""Number, type and number of values of a tag, and the values themselves or where they are."""


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


def copied_page(file: io.BytesIO | io.FileIO, offset: int) -> bytes | None:
    """A page as a file of its own, of which nothing describes a stack; reads no more of the file than that.

    Args:
        file: the file.
        offset: of the page, one of `find_pages`.

    Returns:
        None if this cannot be done, as the page is damaged or of a rare kind: see :func:`patched_page`.
    """
    layout, size = _layout(_read(file, 0, 16)), file.seek(0, io.SEEK_END)
    tags = [tag for tag in _tags(file, offset, layout) or () if tag[0] not in _DESCRIBING]
    room = size if layout.pointer.size == 8 else min(size, _LARGEST_CLASSIC)
    room -= sum(_SIZES.get(tag[1], size) * tag[2] for tag in tags)
    if room <= 0:  # tags that share their values
        return None
    values = {tag[0]: _value(file, tag, layout, size) for tag in tags}
    kinds = {tag[0]: _WHOLE_NUMBERS.get(tag[1], "") for tag in tags}
    numbers = {
        name: _numbers(values[name], kinds[name], layout) for name in (*_DATA, *_DATA.values()) if name in values
    }
    where = next((name for name in _DATA if numbers.get(name)), 0)
    starts, counts = numbers.get(where, ()), numbers.get(_DATA.get(where, 0), ())
    compression = _numbers(values.get(_COMPRESSION, b""), kinds.get(_COMPRESSION, ""), layout)
    if None in values.values() or len(starts) != len(counts) or not all(counts) or compression[:1] == (_OLD_JPEG,):
        return None
    if not starts or sum(counts) > room:
        return None
    head = layout.first + layout.pointer.size
    place = head + layout.number.size + len(tags) * layout.tag.size + layout.pointer.size
    parts, moved = list[bytes](), list[int]()
    for start, count in zip(starts, counts, strict=True):
        part = _read(file, start, count)
        if len(part) < count:
            return None
        moved.append(place)
        parts.append(part + bytes(count % 2))
        place += len(parts[-1])
    values[where] = struct.pack(f"{layout.order}{len(moved)}{'Q' if layout.pointer.size == 8 else 'I'}", *moved)
    return _written(file, tags, values, where, parts, place, layout)


def _written(
    file: io.BytesIO | io.FileIO,
    tags: Sequence[_Tag],
    values: dict[int, bytes | None],
    where: int,
    parts: Sequence[bytes],
    place: int,
    layout: _Layout,
) -> bytes:
    """A file of one page: its start, the tags, the parts of its pixels, which end at ``place``, and the values of tags."""
    written, behind, inline = list[bytes](), list[bytes](), layout.pointer.size
    for name, kind, count, _ in tags:
        value = values[name] or b""
        kind = (16 if inline == 8 else 4) if name == where else kind
        stored = value
        if len(value) > inline:
            stored = layout.pointer.pack(place)
            behind.append(value + bytes(len(value) % 2))
            place += len(behind[-1])
        written.append(layout.tag.pack(name, kind, count, stored))
    head = _read(file, 0, layout.first) + layout.pointer.pack(layout.first + inline)
    return b"".join([head, layout.number.pack(len(tags)), *written, layout.pointer.pack(0), *parts, *behind])


def patched_page(data: bytes, offset: int) -> bytes:
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


def _read(file: io.BytesIO | io.FileIO, start: int, count: int) -> bytes:
    """Some bytes; fewer where the file ends, or where no file has any."""
    if start >= 2**63 - _MOST_TAGS * 20:
        return b""
    file.seek(start)
    return file.read(count)


def _tags(file: io.BytesIO | io.FileIO, offset: int, layout: _Layout) -> list[_Tag] | None:
    """The tags of a page; None if the file ends before them or before the link to the next page, or there are none."""
    raw = _read(file, offset, layout.number.size)
    count = layout.number.unpack(raw)[0] if len(raw) == layout.number.size else 0
    if not 0 < count < _MOST_TAGS:
        return None
    size = count * layout.tag.size
    stored = _read(file, offset + layout.number.size, size + layout.pointer.size)
    return list(layout.tag.iter_unpack(stored[:size])) if len(stored) == size + layout.pointer.size else None


def _subfile(tags: Sequence[_Tag], layout: _Layout) -> int:
    """What kind of page it is; 0 for a full image."""
    value = next((tag for tag in tags if tag[0] == _SUBFILE), None)
    if value is None:
        return 0
    kind = "H" if value[1] == _SHORT else "I"
    return int(struct.unpack_from(layout.order + kind, value[3])[0])


def _value(file: io.BytesIO | io.FileIO, tag: _Tag, layout: _Layout, size: int) -> bytes | None:
    """The values of a tag as they are stored; None if they are of an unknown type, or the file ends before."""
    length = _SIZES.get(tag[1], size) * tag[2]
    if length <= layout.pointer.size:
        return tag[3][:length]
    value = _read(file, layout.pointer.unpack(tag[3])[0], length) if length <= size else b""
    return value if len(value) == length else None


def _numbers(value: bytes | None, kind: str, layout: _Layout) -> tuple[int, ...]:
    """Whole numbers of a tag; none if its values are something else."""
    if not kind or value is None:
        return ()
    return struct.unpack(f"{layout.order}{len(value) // struct.calcsize(layout.order + kind)}{kind}", value)
