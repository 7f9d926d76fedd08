"""TIFF files that Pillow does not read, or not faithfully: deep color, L*a*b*, many channels, rare compressions."""

import ctypes
import io
import logging
import math
import struct
from contextlib import suppress

import numpy as np
import tifffile
from PIL import Image

from coterie.data.decoding.photometric import (
    INK_SET,
    alpha_samples,
    full_range,
    is_color,
    is_premultiplied,
    is_usual_ycbcr,
    photometric,
    to_color,
)
from coterie.data.decoding.pixels import (
    UNKNOWN_RANGE,
    PixelArray,
    Stored,
    ValueRange,
    apply_orientation,
    check_bytes,
    check_size,
    damaged_image,
    scaled,
)
from coterie.data.decoding.png import check_bare_png
from coterie.errors import BadImage

# tifffile logs oddities, which would be printed without a handler. What matters is raised as BadImage.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
# libtiff, inside Pillow, writes to the terminal, past Python. A Pillow without it has nothing to silence.
with suppress(AttributeError, OSError):
    _libtiff = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]
    _libtiff.TIFFSetErrorHandler(None), _libtiff.TIFFSetWarningHandler(None)

_ORIENTATION = 274
_PNG = (34933,)
_PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34925, 50000)
"""None, CCITT, LZW, JPEG, Deflate, PackBits, ThunderScan, LZMA, Zstandard: what the libtiff in Pillow's wheels knows."""


def is_tiff(data: bytes) -> bool:
    """Whether a file starts like a TIFF or BigTIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(data: bytes, channels: int, value_range: ValueRange | None = None) -> PixelArray | None:
    """Read the first image of a TIFF file.

    Of a stack, the first frame is used (time 0, depth 0, first page, ...). Channels may be interleaved, in planes, or on pages
    that are marked as channels. The pages of an array whose axes have no names (written by tifffile) are channels only if
    neither 1 nor 3 ``channels`` are needed: then the first or the last axis is, whichever has their number. If 1 or 3 are
    needed, colors become RGB and alpha is dropped (`coterie.data.decoding.photometric.to_color`).

    Args:
        data: The file.
        channels: Number of channels that are needed.
        value_range: What becomes 0 and 1 of floating-point, signed and 32-bit values; None: they are refused.

    Returns:
        ``[H, W, C]``, upright, uint8, or uint16 for more than 8 bits, scaled to the whole range; None if Pillow reads the
        file correctly.

    Raises:
        BadImage: The file is damaged or too large, its values have no known range, or nothing installed reads it.
    """
    _check_pages(data)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = _first_series(file)
            check_size(series.keyframe.imagelength, series.keyframe.imagewidth)
            _check_complete(series.keyframe, data)
            if channels in (1, 3) and _is_plain(series, file):
                return None
            return _read(series, channels, value_range)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # the parser may raise anything on a broken file
        raise damaged_image(error) from error


def tiff_channels(data: bytes) -> int:
    """The number of channels of a TIFF file by its header, without alpha.

    Raises:
        BadImage: The header is damaged.
    """
    _check_pages(data)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = _first_series(file)
            page = series.keyframe
            stored = math.prod(n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "CS")
            if is_color(page) and stored == page.samplesperpixel:
                return 3 if photometric(page) == "PALETTE" or stored - alpha_samples(page) > 1 else 1
            return int(stored) - alpha_samples(page)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as above
        raise damaged_image(error) from error


def _check_pages(data: bytes) -> None:
    """Refuse pages that link to each other in a circle, which tifffile would follow forever."""
    order, wide = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    tags, pointer = (struct.Struct(order + each) for each in ("QQ" if wide else "HI"))
    tag_size, position, seen = (20 if wide else 12), (8 if wide else 4), set[int]()
    while position + pointer.size <= len(data):
        (page,) = pointer.unpack_from(data, position)
        if page in seen:
            raise BadImage("damaged (the pages of this TIFF file form a circle)")
        if not page or page + tags.size > len(data):
            return
        seen.add(page)
        position = page + tags.size + tag_size * tags.unpack_from(data, page)[0]


def _check_complete(page: tifffile.TiffPage, data: bytes) -> None:
    """Refuse here what decoders would print a message about: a truncated file, damaged PNG streams."""
    parts = [(start, start + count) for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    last = max((end for _, end in parts), default=0)
    if last > len(data):
        raise BadImage(f"truncated or damaged (it has {len(data)} bytes, its pixels end at {last})")
    if page.compression in _PNG:
        for start, end in parts:
            if end > start:
                check_bare_png(data[start:end])


def _first_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not file.series:
        raise BadImage("truncated or damaged (no image in this TIFF file)")
    return file.series[0]


def _page_axes(series: tifffile.TiffPageSeries) -> str:
    """The axes that extend over pages."""
    return str(series.axes).removesuffix(series.keyframe.axes)


def _is_plain(series: tifffile.TiffPageSeries, file: tifffile.TiffFile) -> bool:
    """Whether Pillow reads all of it, and right: colors within a page, of at most 8 bits, or gray of 16 bits."""
    if "C" in _page_axes(series):
        return False
    page, name, alpha = series.keyframe, photometric(series.keyframe), series.keyframe.extrasamples
    compression, bits, planes = int(page.compression), page.bitspersample, int(page.planarconfig) == 2
    if (file.is_bigtiff and file.byteorder == ">") or compression not in _PILLOW_COMPRESSIONS:
        return False
    if page.fillorder == 2 and _misread_backwards(name, bits, compression):
        return False
    if page.dtype == np.uint16:
        return bits == 16 and page.samplesperpixel == 1 and name == "MINISBLACK" and not planes
    if page.dtype not in (np.uint8, np.bool_) or not is_color(page):
        return False
    match name:
        case "MINISBLACK" | "RGB" if alpha:
            return bits == 8 and len(alpha) == 1 and not planes
        case "PALETTE" if alpha:
            return bits == 8 and tuple(alpha) == (2,) and not planes
        case "MINISBLACK" | "MINISWHITE" | "PALETTE":
            return bits in (1, 2, 4, 8) and not alpha and not planes
        case "RGB" | "SEPARATED":
            return bits == 8 and not alpha and page.tags.valueof(INK_SET, 1) == 1
        case "YCBCR":  # what is compressed, libtiff converts by all its tags
            return bits == 8 and not alpha and not planes and (compression != 1 or is_usual_ycbcr(page))
    return False


def _misread_backwards(name: str, bits: int, compression: int) -> bool:
    """Whether Pillow ignores or does not know FillOrder 2, bytes whose first bit is the lowest."""
    return bits > 8 or name == "SEPARATED" or (compression == 1 and (bits == 8 or name == "PALETTE"))


def _read(series: tifffile.TiffPageSeries, channels: int, value_range: ValueRange | None) -> PixelArray:
    page, name = series.keyframe, photometric(series.keyframe)
    if not isinstance(page.bitspersample, int):
        raise BadImage(f"samples of {page.bitspersample} bits: different depths are not supported")
    ranged = page.dtype not in (np.uint8, np.uint16, np.bool_)
    if ranged and (value_range is None or page.dtype is None or page.dtype.kind not in "iuf"):
        raise BadImage(UNKNOWN_RANGE.format(page.dtype or "unknown"))
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel * page.dtype.itemsize)
    as_color = channels in (1, 3)
    unnamed = _page_axes(series).startswith("Q") and not as_color
    pixels = _unnamed_axes(series, channels) if unnamed else _first_frame(series)
    one_page = pixels.shape[2] == page.samplesperpixel
    if as_color and one_page and is_color(page) and not ranged:
        return apply_orientation(to_color(pixels, page), int(page.tags.valueof(_ORIENTATION, 1)))
    if (as_color and one_page) or ranged:
        if name not in ("MINISBLACK", "MINISWHITE", "RGB"):
            kind = f"{page.dtype} values" if ranged else f"{page.samplesperpixel} samples"
            raise BadImage(f"photometric interpretation {name or page.photometric} with {kind} is not supported")
        if ranged and is_premultiplied(page):
            raise BadImage(f"{page.dtype} values with premultiplied alpha are not supported")
    pixels = scaled(pixels, value_range) if ranged and value_range else full_range(pixels, page.bitspersample)
    pixels = np.iinfo(pixels.dtype).max - pixels if name == "MINISWHITE" else pixels
    pixels = pixels[..., : page.samplesperpixel - alpha_samples(page)] if as_color and one_page else pixels
    return apply_orientation(pixels, int(page.tags.valueof(_ORIENTATION, 1)))


def _first_frame(series: tifffile.TiffPageSeries) -> Stored:
    """All channels of the first frame; decodes no other page where pages can be read one by one."""
    axes = _page_axes(series)
    numbers = np.arange(math.prod(series.shape[: len(axes)])).reshape(series.shape[: len(axes)])
    numbers = numbers[tuple(slice(None) if axis == "C" else 0 for axis in axes)]
    page = series.keyframe
    if len(series.pages) > numbers.max():
        check_bytes(numbers.size * page.nbytes)
        stored = np.stack([series.pages[number].asarray() for number in numbers.ravel().tolist()])
        return _reordered(stored.reshape(numbers.shape + page.shape), "C" * numbers.ndim + page.axes)
    check_bytes(series.nbytes)
    return _reordered(series.asarray(), series.axes)


def _reordered(stored: np.ndarray, axes: str) -> Stored:
    """Move the axes to rows, columns, channels, taking index 0 of every other axis."""
    stored = stored[tuple(slice(None) if axis in "YXCS" else 0 for axis in axes)]
    kept = "".join(axis for axis in axes if axis in "YXCS")
    order = sorted(range(len(kept)), key=lambda number: "YXCS".index(kept[number]))
    stored = stored.transpose(order)
    return stored.reshape(*stored.shape[:2], -1)


def _unnamed_axes(series: tifffile.TiffPageSeries, channels: int) -> Stored:
    """An array whose axes have no names: the first or the last axis holds the channels."""
    shape = "x".join(str(length) for length in series.shape)
    if len(series.shape) != 3 or channels not in (series.shape[0], series.shape[-1]):
        raise BadImage(f"an array of {shape} whose axes have no names; set views.channels to its first or last length")
    check_bytes(series.nbytes)
    stored: np.ndarray = series.asarray()
    return stored if stored.shape[-1] == channels else stored.transpose(1, 2, 0)
