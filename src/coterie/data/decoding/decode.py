"""From the bytes of a file to pixels: the one place where images are decoded."""

import io
import logging
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,  # noqa: F401 -- importing a format is what makes Pillow read it
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from coterie.data.decoding.dicom import dicom_channels, is_dicom, read_dicom
from coterie.data.decoding.heif import heif_format, is_heif
from coterie.data.decoding.jpeg import MIN_DOWNSCALED_SIDE, decode_jpeg
from coterie.data.decoding.pixels import (
    PIXEL_LIMIT,
    UNKNOWN_RANGE,
    Limits,
    PixelArray,
    ValueRange,
    apply_orientation,
    check_size,
    convert_channels,
    damaged_image,
    scaled,
)
from coterie.data.decoding.png import deep_png_channels, is_deep_png, read_deep_png
from coterie.data.decoding.tiff import is_tiff, read_tiff, tiff_channels
from coterie.errors import BadImage

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what matters is raised as BadImage

# The supported formats, recognized by content, not by name. Pillow knows more, some of which start other programs.
_SUPPORTED = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
with suppress(ImportError):  # Pillow before 11.3 has none
    from PIL import AvifImagePlugin  # noqa: F401
_FORMATS = tuple(name for name in _SUPPORTED if name in Image.OPEN)
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations whose rows are stored as columns
_GRAY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")

StoredImage = bytes | np.ndarray | Image.Image
"""An image as a source gives it: the bytes of a file, an array of pixels, or an image of Pillow."""

Downscale = Callable[[int, int], int]
"""The factor by which an image of this height and width may be divided: 1, 2, 4 or 8."""


def decode(
    data: StoredImage,
    channels: int = 3,
    downscale: Downscale | None = None,
    value_range: Limits | None = None,
) -> PixelArray:
    """Decode an image.

    The EXIF orientation is applied. Of an animation, a stack or a DICOM file of several frames, the first frame is used.
    Palettes become colors, alpha is dropped as Pillow's ``convert("RGB")`` does, CMYK becomes RGB, and L*a*b* sRGB. PNG and
    TIFF of more than 8 bits, and gray PGM and JPEG 2000, keep their depth, scaled to 16 bits. Floating-point, signed and
    32-bit values have no known range and are refused without one.

    Args:
        data: The bytes of a file in any supported format (`coterie.data.sources.file_names.IMAGE_SUFFIXES`), whatever its
            name; an array ``[H, W]`` or ``[H, W, C]``; or an image of Pillow, of any mode, which gives what its file gives.
        channels: 1 for gray or 3 for RGB, to which images are converted; any other number must be that of the image. The gray
            of a colored JPEG file is the luma that it stores, which is faster to decode than its colors.
        downscale: Called with height and width of the upright image; returns the factor by which they may be divided in
            decoding. JPEG files are divided (rounding up), which takes half the time and less memory; others are not.
            None: full size.
        value_range: The lowest and the highest value of images of floating-point, signed or 32-bit values, which become 0 and
            65535, or a function that returns these two when it is given the values; None: such images are refused.

    Returns:
        ``[H, W, channels]``, uint8, or uint16 for more than 8 bits; contiguous and never shared with the input.

    Raises:
        BadImage: The image cannot be decoded, or must not be (more than `PIXEL_LIMIT` pixels); the message says why.
    """
    if isinstance(data, np.ndarray):
        pixels = _checked_array(data)
    elif isinstance(data, Image.Image):
        pixels = _of_picture(data, channels, value_range)
    elif not data:
        raise BadImage("an empty file (0 bytes)")
    else:
        with warnings.catch_warnings():  # what Pillow warns about is either refused here or harmless
            warnings.simplefilter("ignore")
            # what is before a DICOM file may look like the start of a TIFF
            if is_dicom(data):
                return np.require(convert_channels(read_dicom(data), channels), requirements=("C", "W"))
            stored = read_tiff(data, channels, value_range) if is_tiff(data) else None
            pixels = _read(data, channels, downscale, value_range) if stored is None else stored
        return np.require(convert_channels(pixels, channels), requirements=("C", "W"))  # copies what is not ours
    return np.array(convert_channels(pixels, channels), order="C")


def decode_shown(data: StoredImage, value_range: ValueRange | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image as people see it: in color, 8 bits; of one with other channels than gray or color, its first, as gray.

    Args:
        data: as of :func:`decode`.
        value_range: as of :func:`decode`.

    Raises:
        BadImage: it cannot be decoded.
    """
    channels = count_channels(data)
    pixels = decode(data, channels if channels not in (1, 3) else 3, value_range=value_range)
    if pixels.shape[2] != 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def decode_indices(data: bytes) -> UInt8[np.ndarray, "h w"] | str:
    """Decode a mask: the values of a gray PNG file, or the indices of one with a palette, and not its colors.

    Args:
        data: the file.

    Returns:
        ``[H, W]``; or in a few words what else it is, such as a picture of several channels.

    Raises:
        BadImage: it cannot be decoded.
    """
    with _open(data) as image:
        if image.format != "PNG":
            return f"a {image.format} file"
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            return f"a picture of several channels ({image.mode})"
        try:
            pixels = np.asarray(image)
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise damaged_image(error) from error
    if pixels.max() > np.iinfo(np.uint8).max:
        return f"a file with values up to {pixels.max()}"
    return pixels.astype(np.uint8)


def count_channels(data: StoredImage) -> int:
    """The number of channels of an image without alpha: 1 if gray, 3 if colored, N for such a TIFF or array.

    Reads only the header.

    Raises:
        BadImage: It is not an image.
    """
    if isinstance(data, np.ndarray):
        return int(_checked_array(data).shape[2])
    if isinstance(data, Image.Image):
        return _gray_or_color(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_dicom(data):
            return dicom_channels(data)
        if is_tiff(data):
            return tiff_channels(data)
        with _open(data) as image:
            return deep_png_channels(data) if is_deep_png(data) else _gray_or_color(image)


def _gray_or_color(image: Image.Image) -> int:
    return 1 if image.mode in _GRAY_MODES else 3


def _checked_array(array: np.ndarray) -> PixelArray:
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or not pixels.size or pixels.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"an array {array.dtype}{list(array.shape)}; give uint8 or uint16 of [H, W] or [H, W, C]")
    return pixels


def file_content(image: Image.Image) -> bytes | None:
    """The file that an image of Pillow was opened from, if its pixels have not been read yet and the format is supported.

    Two processes that read one open file disturb each other, and pixels stay in memory once they are read.
    """
    file = getattr(image, "fp", None)
    if not getattr(image, "tile", None) or image.format not in _FORMATS or image.tell():
        return None
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    try:
        return Path(image.filename).read_bytes()  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError, ValueError):
        return None


def _of_picture(image: Image.Image, channels: int, value_range: Limits | None) -> PixelArray:
    """The pixels of an image that Pillow has opened, perhaps lazily, upright."""
    check_size(image.height, image.width)
    try:
        with warnings.catch_warnings():  # as above
            warnings.simplefilter("ignore")
            image.load()
            return apply_orientation(_pixels(image, channels, value_range), _orientation(image))
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # decoders may raise anything on a broken file
        raise damaged_image(error) from error


def _open(data: bytes) -> Image.Image:
    """Read the header and refuse a decompression bomb."""
    heif = is_heif(data)
    formats = (heif_format(),) if heif else _FORMATS
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        if heif:
            raise BadImage("truncated or damaged (a HEIC image)") from error
        raise BadImage("not an image in a supported format" if data else "an empty file (0 bytes)") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        found = f"{pixels.group()} pixels" if pixels else "too many pixels"
        raise BadImage(f"{found}, more than the limit of {PIXEL_LIMIT} pixels per image") from error
    except MemoryError:
        raise
    except Exception as error:  # header parsers may raise anything on a broken file
        raise damaged_image(error) from error
    check_size(image.height, image.width)
    return image


def _read(data: bytes, channels: int, downscale: Downscale | None, value_range: Limits | None) -> PixelArray:
    """Decode anything but the TIFF files that ``read_tiff`` reads, upright."""
    with _open(data) as image:
        try:
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                return _read_jpeg(data, image, channels, downscale)
            if is_deep_png(data):
                return apply_orientation(read_deep_png(data, channels), _orientation(image))
            image.load()
            pixels = _pixels(image, channels, value_range)
            return apply_orientation(pixels, _orientation(image))  # read it after load(): Pillow turns a TIFF itself
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # as above
            raise damaged_image(error) from error


def _read_jpeg(data: bytes, image: Image.Image, channels: int, downscale: Downscale | None) -> PixelArray:
    """Decode with simplejpeg, or else with Pillow; downscaled where that is allowed."""
    orientation, factor = _orientation(image), 1
    if downscale is not None and min(image.size) >= MIN_DOWNSCALED_SIDE:
        width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
        factor = downscale(height, width)
    gray = channels == 1 and image.mode == "RGB"
    pixels = decode_jpeg(data, image.mode, image.height, image.width, factor, gray=gray)
    if pixels is None:
        if factor > 1 or gray:
            image.draft("L" if gray else None, (image.width // factor, image.height // factor))
        image.load()
        pixels = _pixels(image, channels)
    return apply_orientation(pixels, orientation)


def _pixels(image: Image.Image, channels: int, value_range: Limits | None = None) -> PixelArray:
    if image.mode == "F" and value_range is not None:
        return scaled(np.asarray(image)[..., None], value_range)
    if image.mode == "F":
        raise BadImage(UNKNOWN_RANGE.format("floating-point"))
    if image.mode.startswith("I"):
        stored = np.asarray(image)
        if stored.min() < 0 or stored.max() > 0xFFFF:
            raise BadImage(UNKNOWN_RANGE.format("32-bit"))
        return stored.astype(np.uint16)[..., None]
    if image.mode in ("La", "RGBa"):  # premultiplied alpha; only this conversion makes Pillow divide by it
        image = image.convert(image.mode.upper())
    target = {1: "L", 3: "RGB"}.get(channels, image.mode)
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the pixels worse
        return 1
