"""TIFF files that Pillow does not read faithfully: 16-bit color, any number of channels, channels on pages."""

import io
import logging
import math
import struct

import numpy as np
import tifffile

from coterie.data.decoding.pixels import BYTE_LIMIT, Pixels, check_size, damaged, upright
from coterie.errors import BadImage

# tifffile logs what it finds odd; without a handler that would be printed. What matters is raised as BadImage.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_ALPHA = (1, 2)  # TIFF 6.0, ExtraSamples: associated and unassociated alpha
_ORIENTATION = 274
_UNNAMED = 32  # an axis without a name that is at most so long is taken for channels, when nobody says how many


def is_tiff(data: bytes) -> bool:
    """Whether the first bytes are those of a TIFF or BigTIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_tiff(data: bytes, channels: int) -> Pixels | None:
    """The first image of a TIFF file, ``[H, W, C]`` as stored, upright; None where Pillow reads it as well.

    Of a stack, the first frame is taken (time 0, depth 0, ...). Channels may lie in a pixel, in planes, or on pages
    that are marked as channels. An array whose axes have no names (a file written by tifffile) is read by the length of
    its first or last axis. With 1 or 3 ``channels`` wanted, alpha is left out.

    Raises:
        BadImage: it is damaged, too large, neither 8 nor 16 bits deep, or in a compression that cannot be read here.
    """
    _check_pages(data)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = _first_series(file)
            check_size(series.keyframe.imagelength, series.keyframe.imagewidth)
            _check_whole(series.keyframe, len(data))
            if channels in (1, 3) and _is_plain(series):
                return None
            return _read(series, channels)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # its parser may raise anything on a broken file
        raise damaged(error) from error


def tiff_channels(data: bytes) -> int:
    """How many channels a TIFF file has by its header; gray with alpha has 1, RGB with alpha 3.

    Raises:
        BadImage: the header is damaged.
    """
    _check_pages(data)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = _first_series(file)
            page = series.keyframe
            if _lead(series).startswith("Q"):
                shortest = min(series.shape[0], series.shape[-1])
                return int(shortest) if shortest <= _UNNAMED else 1
            if _photometric(page) in ("PALETTE", "SEPARATED", "YCBCR"):
                return 3
            stored = math.prod(n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "CS")
            return int(stored) - _alpha(page)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # as above
        raise damaged(error) from error


def _check_pages(data: bytes) -> None:
    """Refuse pages that follow each other in a circle: tifffile would go round for ever."""
    order, wide = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    tags, pointer = (struct.Struct(order + each) for each in ("QQ" if wide else "HI"))
    tag_size, place, seen = (20 if wide else 12), (8 if wide else 4), set[int]()
    while place + pointer.size <= len(data):
        (page,) = pointer.unpack_from(data, place)
        if page in seen:
            raise BadImage("damaged (the pages of this TIFF file go in a circle)")
        if not page or page + tags.size > len(data):
            return
        seen.add(page)
        place = page + tags.size + tag_size * tags.unpack_from(data, page)[0]


def _check_whole(page: tifffile.TiffPage, length: int) -> None:
    """Say here that a file is cut short: the C library beneath Pillow would print it."""
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if max(ends, default=0) > length:
        raise BadImage(f"cut short or damaged (it has {length} bytes, its pixels end at {max(ends)})")


def _first_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if not file.series:
        raise BadImage("cut short or damaged (no image in this TIFF file)")
    return file.series[0]


def _photometric(page: tifffile.TiffPage) -> str:
    return str(getattr(page.photometric, "name", ""))


def _lead(series: tifffile.TiffPageSeries) -> str:
    """The axes that run over pages."""
    return str(series.axes).removesuffix(series.keyframe.axes)


def _alpha(page: tifffile.TiffPage) -> int:
    """How many of a pixel's samples are alpha beside gray or RGB."""
    alpha = sum(int(sample) in _ALPHA for sample in page.extrasamples)
    return alpha if page.samplesperpixel - alpha in (1, 3) else 0


def _is_plain(series: tifffile.TiffPageSeries) -> bool:
    """Whether Pillow reads all that there is: channels within a page, and 8 bits or fewer, or 16 bits of gray."""
    page = series.keyframe
    colors = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}
    plain = page.samplesperpixel - _alpha(page) == colors.get(_photometric(page))
    shallow = page.bitspersample <= 8 and page.dtype in (np.uint8, np.bool_)
    gray = page.dtype == np.uint16 and page.samplesperpixel == 1 and _photometric(page) == "MINISBLACK"
    return bool(plain and (shallow or gray) and not set(_lead(series)) & {"C", "Q"})


def _read(series: tifffile.TiffPageSeries, channels: int) -> Pixels:
    page = series.keyframe
    if page.dtype not in (np.uint8, np.uint16, np.bool_):
        raise BadImage(f"{page.dtype or 'unknown'} values, whose range is not known; save it with 8 or 16 bits")
    check_size(page.imagelength, page.imagewidth, page.samplesperpixel * page.dtype.itemsize)
    pixels = _unnamed(series, channels) if _lead(series).startswith("Q") else _first_frame(series)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if _photometric(page) == "MINISWHITE":
        pixels = np.iinfo(pixels.dtype).max - pixels
    if channels in (1, 3) and pixels.shape[2] == page.samplesperpixel:
        pixels = pixels[..., : page.samplesperpixel - _alpha(page)]
    return upright(pixels, int(page.tags.valueof(_ORIENTATION, 1)))


def _first_frame(series: tifffile.TiffPageSeries) -> Pixels:
    """All channels of the first frame, decoding no other page where pages can be read one by one."""
    lead = _lead(series)
    numbers = np.arange(math.prod(series.shape[: len(lead)])).reshape(series.shape[: len(lead)])
    numbers = numbers[tuple(slice(None) if axis == "C" else 0 for axis in lead)]
    page = series.keyframe
    if len(series.pages) > numbers.max():
        _check_bytes(numbers.size * page.nbytes)
        stored = np.stack([series.pages[number].asarray() for number in numbers.ravel().tolist()])
        return _in_order(stored.reshape(numbers.shape + page.shape), "C" * numbers.ndim + page.axes)
    _check_bytes(series.nbytes)
    return _in_order(series.asarray(), series.axes)


def _in_order(stored: np.ndarray, axes: str) -> Pixels:
    """Rows, columns, channels; index 0 of every other axis."""
    stored = stored[tuple(slice(None) if axis in "YXCS" else 0 for axis in axes)]
    kept = "".join(axis for axis in axes if axis in "YXCS")
    order = sorted(range(len(kept)), key=lambda place: "YXCS".index(kept[place]))
    stored = stored.transpose(order)
    return stored.reshape(*stored.shape[:2], -1)


def _unnamed(series: tifffile.TiffPageSeries, channels: int) -> Pixels:
    """An array whose axes have no names: the first or the last is as long as there are channels."""
    shape = "x".join(str(length) for length in series.shape)
    if len(series.shape) != 3 or channels not in (series.shape[0], series.shape[-1]):
        raise BadImage(f"an array of {shape} whose axes have no names; views.channels must be its first or last length")
    _check_bytes(series.nbytes)
    stored: np.ndarray = series.asarray()
    return stored if stored.shape[-1] == channels else stored.transpose(1, 2, 0)


def _check_bytes(size: int) -> None:
    if size > BYTE_LIMIT:
        raise BadImage(f"{size} bytes when decoded, more than the limit of {BYTE_LIMIT} bytes an image")
