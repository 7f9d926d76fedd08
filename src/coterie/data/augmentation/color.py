"""Color operations on the planes of views, with exactly the results of Pillow.

A view is float32 ``[3, H, W]`` holding whole numbers from 0 to 255: numpy and torch process such planes two to four times
as fast as Pillow its packed pixels. N views can be processed at once, as ``[3, N, H, W]`` with one factor each,
``[N, 1, 1]``. Functions change the planes in place and leave whole numbers in them. Pillow computes in single precision
and truncates, and so does this module: for the same factor, every pixel equals that of torchvision's function on a PIL
image (for hue: no difference in a billion pixels).
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8

ColorPlanes = Float[np.ndarray, "3 *n h w"]
GrayPlane = Float[np.ndarray, "*n h w"]
HuePlane = UInt8[np.ndarray, "*n h w"]
Factor = float | Float[np.ndarray, "*n 1 1"]

LUMA = np.array([19595, 38470, 7471], dtype=np.float32) / 65536  # .299, .587, .114 in 16 bits: sums are exact
_EXACT = 2**24 // 255  # the sum of this many bytes is exact in single precision
_MIDDLES = np.array([255, 170, 340], dtype=np.int16)  # twice the hue farthest from red, and of green and of blue


def adjust_brightness(planes: ColorPlanes, factor: Factor) -> None:
    """Multiply by the factor."""
    planes *= np.asarray(factor, dtype=np.float32)
    _clip_and_truncate(planes, factor)


def adjust_contrast(planes: ColorPlanes, factor: Factor) -> None:
    """Scale the difference from the mean gray of the view by the factor."""
    gray = luma(planes)
    pixels = gray.shape[-2] * gray.shape[-1]
    total = gray.sum(axis=(-2, -1), keepdims=True, dtype=np.float32 if pixels <= _EXACT else np.float64)
    _scale_around(planes, np.floor(total / np.float64(pixels) + 0.5).astype(np.float32), factor)


def adjust_saturation(planes: ColorPlanes, factor: Factor) -> None:
    """Scale the difference from the gray of each pixel by the factor."""
    _scale_around(planes, luma(planes), factor)


def solarize(planes: Float[np.ndarray, "c *n h w"]) -> None:
    """Invert the values of 128 and above."""
    np.copyto(planes, 255 - planes, where=planes >= 128)


def luma(planes: ColorPlanes) -> GrayPlane:
    """The gray of each pixel, a whole number (ITU-R 601-2)."""
    gray: GrayPlane = planes[0] * LUMA[0]
    part = planes[1] * LUMA[1]
    gray += part
    np.multiply(planes[2], LUMA[2], out=part)
    gray += part
    gray += np.float32(0.5)
    np.floor(gray, out=gray)
    return gray


def adjust_hue(planes: ColorPlanes, shift: Factor) -> None:
    """Shift the hue, using 8 bits each for hue, saturation and value, as Pillow does.

    A channel is ``value - chroma * share``, rounded. The share rises from 0 to 85 (of 85) and falls again as the hue goes
    around; ``chroma`` is saturation times value, over 255. The result is never halfway between two whole numbers.

    Args:
        planes: Changed in place.
        shift: Shift of the hue; 0.5 is half the color circle.
    """
    hue = _hue(planes)
    hue += (np.asarray(shift * 255).astype(np.int64) % 256).astype(np.uint8)  # uint8 wraps around by itself
    value, chroma = _value_and_chroma(planes)
    share = hue.astype(np.int16) * np.int16(2) - _MIDDLES.reshape(3, *[1] * hue.ndim)  # of green and blue, less 85
    np.abs(share, out=share)
    share[1:] -= np.int16(85)
    np.subtract(np.int16(170), share[0], out=share[0])  # red is full where the circle begins and ends
    torch.from_numpy(share).clamp_(0, 85)
    np.copyto(planes, share)
    planes *= chroma
    np.subtract(value, planes, out=planes)
    np.rint(planes, out=planes)


def _hue(planes: ColorPlanes) -> HuePlane:
    """The hue of each pixel, a function of red - green and green - blue: 0 is red, 85 green, 170 blue."""
    position = planes[0] * np.float32(512)
    part = planes[1] * np.float32(511)
    position -= part
    position -= planes[2]
    position += np.float32(255 * 513)
    positions = torch.from_numpy(position.astype(np.int32).reshape(-1))
    hue: HuePlane = torch.index_select(torch.from_numpy(hue_table()), 0, positions).numpy().reshape(position.shape)
    return hue


def _value_and_chroma(planes: ColorPlanes) -> tuple[GrayPlane, GrayPlane]:
    """The maximum of the three channels, and ``saturation * value / (255 * 85)`` with the saturation from 0 to 255."""
    red, green, blue = planes
    value, chroma = np.maximum(red, green), np.minimum(red, green)
    np.maximum(value, blue, out=value)
    np.minimum(chroma, blue, out=chroma)
    np.subtract(value, chroma, out=chroma)
    chroma /= torch.from_numpy(value).clamp(min=1).numpy()
    chroma *= np.float32(255)  # Pillow uses double precision here; no combination of bytes gives another result
    np.floor(chroma, out=chroma)
    chroma *= value
    chroma *= np.float32(1 / (255 * 85))
    return value, chroma


@cache
def hue_table() -> UInt8[np.ndarray, " n"]:
    """The hue at each index ``512 * (red - green + 255) + (green - blue + 255)``.

    Computed in Pillow's mix of single and double precision, which decides how ties are rounded.
    """
    green = np.arange(-255, 257)
    red = np.arange(-255, 256)[:, None] + green
    highest, lowest = np.maximum(np.maximum(red, green), 0), np.minimum(np.minimum(red, green), 0)  # blue is 0
    chroma = np.maximum(highest - lowest, 1)
    from_red, from_green, from_blue = (
        ((highest - channel) / chroma).astype(np.float32).astype(np.float64) for channel in (red, green, 0)
    )
    sector = np.where(red == highest, 0, np.where(green == highest, 1, 2))
    place = np.choose(sector, [from_blue - from_green, 2 + from_red - from_blue, 4 + from_green - from_red])
    turns = np.fmod(place.astype(np.float32).astype(np.float64) / 6 + 1, 1).astype(np.float32)
    hues: UInt8[np.ndarray, " n"] = (turns.astype(np.float64) * 255).astype(np.uint8).ravel()
    return hues


def _scale_around(planes: ColorPlanes, center: Float[np.ndarray, "*n _ _"], factor: Factor) -> None:
    """``center + factor * (planes - center)``, in place."""
    planes -= center
    planes *= np.asarray(factor, dtype=np.float32)
    planes += center
    _clip_and_truncate(planes, factor)


def _clip_and_truncate(planes: ColorPlanes, factor: Factor) -> None:
    values = torch.from_numpy(planes)  # torch's clamp takes half the time of numpy's clip
    if np.any(np.asarray(factor) > 1):  # smaller factors cannot leave the range
        values.clamp_(0, 255)
    values.floor_()
