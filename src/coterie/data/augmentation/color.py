"""Color operations on views, with exactly the results of Pillow.

A view is uint8 ``[3, H, W]``; N views of one size are processed at once, as ``[N, 3, H, W]`` with one factor each.
Functions change the views in place. Pillow computes in single precision and truncates. What becomes of a byte is computed
like that once for each of the 256, and looked up. So for the same factor, every pixel equals that of torchvision's
function on a PIL image (for hue: no difference in a billion pixels).

Whatever can stays bytes, a quarter of the memory of floats, and is left to numpy: between other calls, a call of torch
costs 6 microseconds, one of numpy 1.6.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from coterie.data.augmentation.lookup import look_up

ColorViews = UInt8[np.ndarray, "n 3 h w"]
Plane = UInt8[np.ndarray, "n h w"]
Factors = Float[np.ndarray, " n"]

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # .299, .587, .114 in 16 bits: sums are exact in single precision
_LUMA = np.array(LUMA, dtype=np.float32)[:, None, None, None]
_BYTES = np.arange(256, dtype=np.float32)
_INVERTED = np.where(_BYTES < 128, _BYTES, 255 - _BYTES).astype(np.uint8)[None]
_FROM_PEAK = np.abs(2 * _BYTES - np.array([[255], [170], [340]], dtype=np.float32))
_FROM_PEAK[0] = 255 - _FROM_PEAK[0]  # red is at its fullest where the circle of hues begins and ends
_SHARES = np.clip(_FROM_PEAK - 85, 0, 85).astype(np.uint8)  # of red, green and blue, at each hue
_NEAR = 2.0**-16  # a sum with a byte may be rounded by half of this


def adjust_brightness(views: ColorViews, factors: Factors) -> None:
    """Multiply by the factor."""
    look_up(views, _truncated(_BYTES * factors.astype(np.float32)[:, None]))


def adjust_contrast(views: ColorViews, factors: Factors) -> None:
    """Scale the difference from the mean gray of the view by the factor."""
    gray = luma(views)
    total = gray.sum(axis=(1, 2), dtype=np.uint32)
    mean = np.floor(total / (gray.shape[1] * gray.shape[2]) + 0.5).astype(np.float32)[:, None]
    look_up(views, _truncated((_BYTES - mean) * factors.astype(np.float32)[:, None] + mean))


def adjust_saturation(views: ColorViews, factors: Factors) -> None:
    """Scale the difference from the gray of each pixel by the factor.

    A value is above or below the gray, by a byte; what that becomes is looked up. Added to the gray it gives what Pillow
    gives, unless a scaled difference is so near to a whole number that Pillow's sum may be rounded to it.
    """
    scaled = _BYTES * factors.astype(np.float32)[:, None]
    down, up = np.floor(scaled), np.ceil(scaled)
    near = (np.maximum(down + _NEAR - scaled, scaled - up + _NEAR) > 0) & (down < up)
    rounded = np.flatnonzero(near.any(axis=1))  # of one factor in a hundred
    before = views[rounded]
    gray = luma(views)[:, None]
    above = np.maximum(views, gray)
    above -= gray
    look_up(above, np.minimum(down, 255).astype(np.uint8))
    below = np.minimum(views, gray)
    np.subtract(gray, below, out=below)
    look_up(below, np.minimum(up, 255).astype(np.uint8))
    stretched = factors.max() > 1  # smaller factors cannot leave the range
    if stretched:
        np.minimum(above, 255 - gray, out=above)
    np.add(above, gray, out=views)
    if stretched:
        np.minimum(below, views, out=below)
    views -= below
    if len(rounded):
        center = gray[rounded].astype(np.float32)
        views[rounded] = _truncated((before - center) * factors.astype(np.float32)[rounded, None, None, None] + center)


def solarize(views: UInt8[np.ndarray, "n c h w"]) -> None:
    """Invert the values of 128 and above."""
    look_up(views, _INVERTED)


def luma(views: ColorViews) -> Plane:
    """The gray of each pixel, a whole number (ITU-R 601-2)."""
    red, green, blue = planes = _float_planes(views)
    planes *= _LUMA
    red += green
    red += blue
    red += np.float32(0.5)
    gray: Plane = red.astype(np.uint8)
    return gray


def adjust_hue(views: ColorViews, shifts: Factors) -> None:
    """Shift the hue, using 8 bits each for hue, saturation and value, as Pillow does.

    A channel is ``value - chroma * share``, rounded; ``chroma`` is saturation times value, over 255. The share falls from
    85 (of 85) to 0 and rises again as the hue goes around. The result is never near the middle of two whole numbers.

    Args:
        views: Changed in place.
        shifts: Shift of the hue; 0.5 is half the color circle.
    """
    hue = _hue(views)
    hue += (shifts * 255).astype(np.int64).astype(np.uint8)[:, None, None]  # uint8 wraps around by itself
    shares = np.empty((3, *hue.shape), dtype=np.uint8)
    shares[:] = hue
    look_up(shares, _SHARES)
    value, chroma = _value_and_chroma(views)
    value += np.float32(0.5)
    channels = shares.astype(np.float32)
    channels *= chroma
    np.subtract(value, channels, out=channels)
    np.copyto(views.swapaxes(0, 1), channels, casting="unsafe")


def _hue(views: ColorViews) -> Plane:
    """The hue of each pixel, a function of red - green and green - blue: 0 is red, 85 green, 170 blue."""
    red, green, blue = views[:, 0], views[:, 1], views[:, 2]
    place = np.subtract(red, green, dtype=np.int16).astype(np.int32)
    place <<= 9
    place += np.subtract(green, blue, dtype=np.int16)
    place += 255 * 513
    hue: Plane = torch.index_select(_hue_tensor(), 0, torch.from_numpy(place.reshape(-1))).numpy().reshape(place.shape)
    return hue


def _value_and_chroma(
    views: ColorViews,
) -> tuple[Float32[np.ndarray, "n h w"], Float32[np.ndarray, "n h w"]]:
    """The maximum of the three channels, and ``saturation * value / (255 * 85)`` with the saturation from 0 to 255."""
    red, green, blue = views[:, 0], views[:, 1], views[:, 2]
    highest, lowest = np.maximum(red, green), np.minimum(red, green)
    np.maximum(highest, blue, out=highest)
    np.minimum(lowest, blue, out=lowest)
    np.subtract(highest, lowest, out=lowest)
    value, chroma = highest.astype(np.float32), lowest.astype(np.float32)
    value += np.float32(1e-30)  # changes none but 0, which would divide 0
    chroma /= value
    chroma *= np.float32(255)  # Pillow uses double precision here; no combination of bytes gives another result
    np.floor(chroma, out=chroma)
    chroma *= value
    chroma *= np.float32(1 / (255 * 85))
    return value, chroma


@cache
def _hue_tensor() -> UInt8[Tensor, " n"]:
    return torch.from_numpy(hue_table())


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


def _float_planes(views: ColorViews) -> Float32[np.ndarray, "3 n h w"]:
    planes = np.empty((3, *views.shape[:1], *views.shape[2:]), dtype=np.float32)
    np.copyto(planes, views.swapaxes(0, 1))
    return planes


def _truncated(values: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """As bytes."""
    truncated: UInt8[np.ndarray, ...] = np.minimum(np.maximum(values, 0), 255).astype(np.uint8)
    return truncated
