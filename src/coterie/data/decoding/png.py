"""PNG files of 16 bits per color, of which Pillow keeps the upper eight."""

import struct
import zlib

import numpy as np

from coterie.data.decoding.pixels import PixelArray, check_bytes
from coterie.errors import BadImage

_LONGEST = 1_000_000  # libpng's own limit
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY_ALPHA = 4
_SAMPLES = {0: 1, 2: 3, _GRAY_ALPHA: 2, 6: 4}  # gray; RGB; RGB and alpha
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), _GRAY_ALPHA: (8, 16), 6: (8, 16)}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, steps of columns and rows of each pass of an interlaced file."""


def is_deep_png(data: bytes) -> bool:
    """Whether a file starts like a PNG of 16 bits per sample, other than plain gray."""
    return data[:8] == _SIGNATURE and data[12:16] == b"IHDR" and data[24:25] == b"\x10" and data[25:26] in b"\2\4\6"


def deep_png_channels(data: bytes) -> int:
    """The number of channels of a file for which `is_deep_png` holds, without alpha."""
    return 1 if data[25] == _GRAY_ALPHA else 3


def read_deep_png(data: bytes, channels: int) -> PixelArray:
    """Decode a file for which `is_deep_png` holds, whose size was checked.

    Decoded by torchvision's libpng, which would print what it does not like: it is given header and pixels alone, checked and
    packed anew.

    Args:
        data: The file.
        channels: Number of channels that are needed; if 1 or 3, alpha is dropped.

    Returns:
        ``[H, W, C]``, uint16, in the stored orientation.

    Raises:
        BadImage: The file is truncated or damaged.
    """
    import torch  # takes seconds, and few need it
    from torchvision.io import decode_png

    header, packed = _checked(data)
    plain = _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(packed, 0)) + _chunk(b"IEND", b"")
    pixels: PixelArray = decode_png(torch.frombuffer(bytearray(plain), dtype=torch.uint8)).numpy().transpose(1, 2, 0)
    return pixels[..., : deep_png_channels(data)] if channels in (1, 3) else pixels


def check_bare_png(data: bytes) -> None:
    """Refuse a PNG stream, as a TIFF file may hold it, at which libpng would print something.

    Raises:
        BadImage: It is damaged, or holds more than header and pixels.
    """
    if data[:8] != _SIGNATURE:
        raise BadImage("damaged (no PNG stream where one should be)")
    _checked(data, bare=True)


def _checked(data: bytes, *, bare: bool = False) -> tuple[bytes, bytes]:
    """The header and the rows of a file, with their filters; ``bare``: nothing else may be in it."""
    header, compressed, kinds = _chunks(data)
    width, height, bits, kind, *methods, interlaced = struct.unpack(">IIBBBBB", header[:13])
    if len(header) != 13 or any(methods) or interlaced > 1 or bits not in _DEPTHS.get(kind, ()):
        raise BadImage("damaged (an unknown method in its header)")
    if not 1 <= min(width, height) <= max(width, height) <= _LONGEST:
        raise BadImage(f"a PNG of {width} x {height} pixels; a side has from 1 to {_LONGEST}")
    pixel, row_lengths = bits * _SAMPLES[kind], []
    check_bytes(pixel * height * width // 8)
    for left, top, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        row_lengths += [(1 + -(-pixel * columns // 8), rows)] if columns > 0 and rows > 0 else []
    inflate = zlib.decompressobj()
    packed = inflate.decompress(compressed, sum(length * rows for length, rows in row_lengths))
    start = 0
    for length, rows in row_lengths:
        filters = np.frombuffer(packed[start : start + length * rows : length], np.uint8)
        if len(filters) < rows or len(packed) < start + length * rows:
            raise BadImage(f"truncated (the pixels end after {len(packed)} bytes)")
        if filters.max() > 4:
            raise BadImage("damaged (a row with an unknown filter)")
        start += length * rows
    if bare:
        more = inflate.decompress(inflate.unconsumed_tail, 1)  # checks the sum at the end
        order = [each for number, each in enumerate(kinds) if number == 0 or each != kinds[number - 1]]
        whole = inflate.eof and not more and not inflate.unused_data and data.endswith(_chunk(b"IEND", b""))
        if not whole or order != [b"IHDR", b"IDAT", b"IEND"]:
            raise BadImage("damaged (a PNG stream that is more than header and pixels, or less)")
    return header, packed


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(data: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """The header, the compressed pixels, and the kinds of all chunks."""
    header, compressed, place, kinds = b"", [], len(_SIGNATURE), list[bytes]()
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        kinds.append(kind)
        if kind in (b"IHDR", b"IDAT"):
            checksum = data[place + 8 + length : place + 12 + length]
            if len(checksum) < 4:
                raise BadImage(
                    f"truncated (it has {len(data)} bytes, a part of its pixels ends at {place + 12 + length})"
                )
            if checksum != struct.pack(">I", zlib.crc32(kind + content)):
                raise BadImage(f"damaged (wrong checksum of {kind.decode()})")
        if kind == b"IHDR":
            header = header or content
        elif kind == b"IDAT":
            compressed.append(content)
        elif kind == b"IEND":
            break
        place += 12 + length
    return header, b"".join(compressed), kinds
