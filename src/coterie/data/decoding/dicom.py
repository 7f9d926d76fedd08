"""DICOM files, read by pydicom (the extra ``dicom``): pixels as a viewer shows them."""

import io
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from coterie.data.decoding.pixels import PixelArray, check_size, damaged_image
from coterie.errors import BadImage

logging.getLogger("pydicom").addHandler(logging.NullHandler())  # what matters is raised as BadImage

_Answer = TypeVar("_Answer")

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DEFLATED_LIMIT = 2**20  # bytes of a file that is deflated as a whole, which may unpack to a thousand times as many


def is_dicom(data: bytes) -> bool:
    """Whether a file is one of DICOM, by its preamble."""
    return data[128:132] == b"DICM"


def read_dicom(data: bytes) -> PixelArray:
    """Read the first frame of a DICOM file.

    Stored values are rescaled (slope and intercept, or a modality LUT), then shown through the first window of the file, or its
    VOI LUT, with 8 bits (DICOM PS3.3, C.11.1 and C.11.2). Without either, the range that can be stored is the range of the
    pixels, with 8 bits, or 16 where more are stored. MONOCHROME1 is inverted; palettes and YBR become RGB.

    Returns:
        ``[H, W, 1]`` or ``[H, W, 3]``, uint8 or uint16.

    Raises:
        BadImage: pydicom, or a package for its compression, is not installed; or it holds no pixels, or is damaged.
    """
    return _guarded(data, _pixels)


def dicom_channels(data: bytes) -> int:
    """The number of channels of a DICOM file: 1 or 3.

    Raises:
        BadImage: As `read_dicom`, of its header.
    """
    return _guarded(data, lambda file: 1 if file.PhotometricInterpretation in _GRAY else 3, pixels=False)


def count_frames(path: bytes) -> int:
    """The number of frames of a file by its header; 1 if it cannot be read, or pydicom is not installed."""
    try:
        import pydicom

        file = pydicom.dcmread(os.fsdecode(path), stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(file.get("NumberOfFrames") or 1)
    except Exception:  # reading the image will say what is wrong with it
        return 1


def _guarded(data: bytes, read: Callable[[Any], _Answer], *, pixels: bool = True) -> _Answer:
    try:
        import pydicom
    except ImportError as error:
        raise BadImage("a DICOM image, which needs one more package: pip install 'coterie[dicom]'") from error
    if _DEFLATED in data[:4096] and len(data) > _DEFLATED_LIMIT:
        raise BadImage("a deflated DICOM file of more than 1 MiB; save it without deflation")
    try:
        file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels)
        if "Rows" not in file or "PhotometricInterpretation" not in file:
            kind = str(getattr(file, "Modality", "")) or "no modality"
            raise BadImage(f"a DICOM file without pixels ({kind[:16]!r})")
        return read(file)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # the parser may raise anything on a broken file
        if any(reason in str(error) for reason in ("missing dependencies", "does not support")):
            name = getattr(getattr(file.file_meta, "TransferSyntaxUID", None), "name", "unknown")
            raise BadImage(
                f"a DICOM image compressed as {name}, which needs one more package: pip install 'pylibjpeg[all]'"
            ) from error
        raise damaged_image(error) from error


def _pixels(file: Any) -> PixelArray:
    from pydicom.pixels import apply_color_lut, pixel_array

    if "FloatPixelData" in file or "DoubleFloatPixelData" in file:
        raise BadImage("floating-point values, whose range is not known; save it with 8 or 16 bits")
    if "PixelData" not in file:
        raise BadImage("a DICOM file without pixels")
    photometric = str(file.PhotometricInterpretation)
    check_size(int(file.Rows), int(file.Columns), int(file.SamplesPerPixel) * (int(file.BitsAllocated) + 7) // 8)
    stored: np.ndarray = pixel_array(file, index=0)  # YBR becomes RGB
    if photometric in _GRAY:
        if stored.ndim != 2:
            raise BadImage(f"damaged ({photometric} of {stored.ndim} dimensions)")
        return _gray(_signed(stored, file), file, invert=photometric == "MONOCHROME1")
    if photometric == "PALETTE COLOR":
        return np.ascontiguousarray(apply_color_lut(stored, file)[..., :3])
    return _scaled(stored.astype(np.float64), 0, 2 ** int(file.BitsStored) - 1, int(file.BitsStored))


def _signed(stored: np.ndarray, file: Any) -> np.ndarray:
    """Stored values without what is in unused high bits: overlays of old files, or a sign that was not extended."""
    unused = int(file.BitsAllocated) - int(file.BitsStored)
    if not 0 < unused < stored.dtype.itemsize * 8 or file.BitsAllocated != stored.dtype.itemsize * 8:
        return stored
    return (stored << unused) >> unused


def _gray(stored: np.ndarray, file: Any, *, invert: bool) -> PixelArray:
    """Gray values as the window of the file shows them."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    transform, voi = _group(file, "PixelValueTransformationSequence"), _group(file, "FrameVOILUTSequence")
    signed, bits = bool(file.PixelRepresentation), int(file.BitsStored)
    limits = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.int64)
    values = apply_modality_lut(stored, transform)
    if "VOILUTSequence" in voi:
        depth = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        pixels = _scaled(apply_voi(values.astype(np.int64), voi), 0, 2**depth - 1, 8)
    elif "WindowCenter" in voi and "WindowWidth" in voi:
        pixels = _scaled(_window(values.astype(np.float64), voi), 0, 1, 8)
    elif bits > 16:
        raise BadImage(f"{bits}-bit values without a window, whose range is not known; save it with 8 or 16 bits")
    else:
        if "ModalityLUTSequence" in transform:
            limits = np.array([0, 2 ** int(transform.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
        else:
            limits = apply_modality_lut(limits, transform)
        pixels = _scaled(values.astype(np.float64), float(limits[0]), float(limits[1]), bits)
    return np.iinfo(pixels.dtype).max - pixels if invert else pixels


def _window(values: np.ndarray, voi: Any) -> np.ndarray:
    """Values from 0 to 1 through the first window (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    center, width = (
        float(np.atleast_1d(np.asarray(each, np.float64))[0]) for each in (voi.WindowCenter, voi.WindowWidth)
    )
    function = str(getattr(voi, "VOILUTFunction", "") or "LINEAR")
    if width <= 0 or not np.isfinite([center, width]).all():
        raise BadImage(f"damaged (a window of width {width:g})")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _scaled(values: np.ndarray, low: float, high: float, bits: int) -> PixelArray:
    """Values of a range as 8 bits, or 16 if more are stored."""
    kind: Any = np.uint8 if bits <= 8 else np.uint16
    low, high = min(low, high), max(low, high)  # a slope may be negative
    if low == high:
        raise BadImage("damaged (all values are rescaled to one)")
    pixels = np.rint(np.clip((values - low) / (high - low), 0, 1) * np.iinfo(kind).max).astype(kind)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _group(file: Any, keyword: str) -> Any:
    """Where the settings of the first frame are: in the groups of an enhanced file, or else in the file itself."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        frames = getattr(file, groups, None)
        if frames and getattr(frames[0], keyword, None):
            return getattr(frames[0], keyword)[0]
    return file
