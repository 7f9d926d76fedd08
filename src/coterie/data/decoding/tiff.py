"""TIFF files that Pillow does not read faithfully: 16-bit color, many channels, channels on separate pages."""

import io
import logging
import math
import struct

import numpy as np
import tifffile

from coterie.data.decoding.pixels import PixelArray, apply_orientation, check_bytes, check_size, damaged_image
from coterie.errors import BadImage

# tifffile logs oddities, which would be printed without a handler. What matters is raised as BadImage.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ALPHA = (1, 2)  # TIFF 6.0, ExtraSamples: associated and unassociated alpha
_ORIENTATION = 274
_MAX_UNNAMED_CHANNELS = 32  # longest axis without a name that is taken for channels when their number is not given


def is_tiff(data: bytes) -> bool:
    """Whether a file starts like a TIFF or BigTIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(data: bytes, channels: int) -> PixelArray | None:
    """Read the first image of a TIFF file.

    Of a stack, the first frame is used (time 0, depth 0, ...). Channels may be interleaved, in planes, or on pages that
    are marked as channels. In an array whose axes have no names (written by tifffile), the channels are the first or the
    last axis, whichever has their number. If 1 or 3 ``channels`` are needed, alpha is dropped.

    Args:
        data: The file.
        channels: Number of channels that are needed.

    Returns:
        ``[H, W, C]`` with the stored values, upright; None if Pillow reads the file correctly.

    Raises:
        BadImage: The file is damaged, too large, neither 8 nor 16 bits deep, or compressed in a way that cannot be read.
    """
    _check_pages(data)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = _first_series(file)
            check_size(series.keyframe.imagelength, series.keyframe.imagewidth)
            _check_complete(series.keyframe, len(data))
            if channels in (1, 3) and _is_plain(series):
                return None
            return _read(series, channels)
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
            if _page_axes(series).startswith("Q"):
                shortest = min(series.shape[0], series.shape[-1])
                return int(shortest) if shortest <= _MAX_UNNAMED_CHANNELS else 1
            if _photometric(page) in ("PALETTE", "SEPARATED", "YCBCR"):
                return 3
            stored = math.prod(n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "CS")
            return int(stored) - _alpha(page)
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


def _check_complete(page: tifffile.TiffPage, length: int) -> None:
    """Refuse a truncated file here: the C library that Pillow uses would print a message."""
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if max(ends, default=0) > length:
        raise BadImage(f"truncated or damaged (it has {length} bytes, its pixels end at {max(ends)})")


def _first_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not file.series:
        raise BadImage("truncated or damaged (no image in this TIFF file)")
    return file.series[0]


def _photometric(page: tifffile.TiffPage) -> str:
    return str(getattr(page.photometric, "name", ""))


def _page_axes(series: tifffile.TiffPageSeries) -> str:
    """The axes that extend over pages."""
    return str(series.axes).removesuffix(series.keyframe.axes)


def _alpha(page: tifffile.TiffPage) -> int:
    """The number of alpha samples of a pixel, next to gray or RGB."""
    alpha = sum(int(sample) in _ALPHA for sample in page.extrasamples)
    return alpha if page.samplesperpixel - alpha in (1, 3) else 0


def _is_plain(series: tifffile.TiffPageSeries) -> bool:
    """Whether Pillow reads everything: channels within a page, and at most 8 bits, or 16 bits of gray."""
    page = series.keyframe
    colors = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}
    plain = page.samplesperpixel - _alpha(page) == colors.get(_photometric(page))
    shallow = page.bitspersample <= 8 and page.dtype in (np.uint8, np.bool_)
    gray = page.dtype == np.uint16 and page.samplesperpixel == 1 and _photometric(page) == "MINISBLACK"
    return bool(plain and (shallow or gray) and not set(_page_axes(series)) & {"C", "Q"})


def _read(series: tifffile.TiffPageSeries, channels: int) -> PixelArray:
    page = series.keyframe
    if page.dtype not in (np.uint8, np.uint16, np.bool_):
        raise BadImage(f"{page.dtype or 'unknown'} values, whose range is not known; save it with 8 or 16 bits")
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel * page.dtype.itemsize)
    pixels = _unnamed_axes(series, channels) if _page_axes(series).startswith("Q") else _first_frame(series)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if _photometric(page) == "MINISWHITE":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if channels in (1, 3) and pixels.shape[2] == page.samplesperpixel:
        pixels = pixels[..., : page.samplesperpixel - _alpha(page)]
    return apply_orientation(pixels, int(page.tags.valueof(_ORIENTATION, 1)))


def _first_frame(series: tifffile.TiffPageSeries) -> PixelArray:
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


def _reordered(stored: np.ndarray, axes: str) -> PixelArray:
    """Move the axes to rows, columns, channels, taking index 0 of every other axis."""
    stored = stored[tuple(slice(None) if axis in "YXCS" else 0 for axis in axes)]
    kept = "".join(axis for axis in axes if axis in "YXCS")
    order = sorted(range(len(kept)), key=lambda number: "YXCS".index(kept[number]))
    stored = stored.transpose(order)
    return stored.reshape(*stored.shape[:2], -1)


def _unnamed_axes(series: tifffile.TiffPageSeries, channels: int) -> PixelArray:
    """An array whose axes have no names: the first or the last axis holds the channels."""
    shape = "x".join(str(length) for length in series.shape)
    if len(series.shape) != 3 or channels not in (series.shape[0], series.shape[-1]):
        raise BadImage(f"an array of {shape} whose axes have no names; set views.channels to its first or last length")
    check_bytes(series.nbytes)
    stored: np.ndarray = series.asarray()
    return stored if stored.shape[-1] == channels else stored.transpose(1, 2, 0)
