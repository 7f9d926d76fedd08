"""The color operations on the planes of a view, value for value those of Pillow.

A view is worked on as float32 ``[3, H, W]`` that holds whole numbers from 0 to 255: numpy and torch handle such planes
two to four times as fast as Pillow its packed pixels. N views can be worked on at once, as ``[3, N, H, W]`` with a factor
each, ``[N, 1, 1]``. Functions change the planes in place and leave whole numbers in them.
Pillow computes in single precision and cuts the fraction off, and so is it done here: for the same factor, the result
is that of torchvision's function on a PIL image, in every pixel (of a turned hue, none of a thousand million differed).
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8

Planes = Float[np.ndarray, "3 *n h w"]
Plane = Float[np.ndarray, "*n h w"]
Bytes = UInt8[np.ndarray, "*n h w"]
Factor = float | Float[np.ndarray, "*n 1 1"]

LUMA = np.array([19595, 38470, 7471], dtype=np.float32) / 65536  # .299, .587, .114 in 16 bits: sums are exact
_EXACT = 2**24 // 255  # the sum of so many bytes is exact in single precision
_MIDDLES = np.array([255, 170, 340], dtype=np.int16)  # twice the hue that is farthest from red, and at green and blue


def brighten(planes: Planes, factor: Factor) -> None:
    """Multiply by the factor."""
    planes *= np.asarray(factor, dtype=np.float32)
    _to_whole(planes, factor)


def contrast(planes: Planes, factor: Factor) -> None:
    """Stretch or shrink the distance from the view's mean gray."""
    gray = luma(planes)
    pixels = gray.shape[-2] * gray.shape[-1]
    total = gray.sum(axis=(-2, -1), keepdims=True, dtype=np.float32 if pixels <= _EXACT else np.float64)
    _stretch(planes, np.floor(total / np.float64(pixels) + 0.5).astype(np.float32), factor)


def saturate(planes: Planes, factor: Factor) -> None:
    """Stretch or shrink the distance of each pixel from its own gray."""
    _stretch(planes, luma(planes), factor)


def solarize(planes: Float[np.ndarray, "c *n h w"]) -> None:
    """Invert the values from 128 up."""
    np.copyto(planes, 255 - planes, where=planes >= 128)


def luma(planes: Planes) -> Plane:
    """The gray of each pixel, a whole number (ITU-R 601-2)."""
    gray: Plane = planes[0] * LUMA[0]
    part = planes[1] * LUMA[1]
    gray += part
    np.multiply(planes[2], LUMA[2], out=part)
    gray += part
    gray += np.float32(0.5)
    np.floor(gray, out=gray)
    return gray


def turn_hue(planes: Planes, turn: Factor) -> None:
    """Turn the color circle: through hue, saturation and value of 8 bits each, as Pillow has them.

    A channel is ``value - reach * share``, rounded. The share runs from 0 to 85 (of 85) and back as the hue goes round;
    ``reach`` is saturation times value, of 255. No such number lies half way between two whole ones.

    Args:
        planes: changed in place.
        turn: 0.5 is half way round.
    """
    hue = _hue(planes)
    hue += (np.asarray(turn * 255).astype(np.int64) % 256).astype(np.uint8)  # past the end it begins again, of itself
    value, reach = _value_and_reach(planes)
    share = hue.astype(np.int16) * np.int16(2) - _MIDDLES.reshape(3, *[1] * hue.ndim)  # of green and blue, less 85
    np.abs(share, out=share)
    share[1:] -= np.int16(85)
    np.subtract(np.int16(170), share[0], out=share[0])  # red is full where the circle begins and ends
    torch.from_numpy(share).clamp_(0, 85)
    np.copyto(planes, share)
    planes *= reach
    np.subtract(value, planes, out=planes)
    np.rint(planes, out=planes)


def _hue(planes: Planes) -> Bytes:
    """The hue of each pixel: 0 is red, 85 green, 170 blue; a function of red - green and green - blue."""
    place = planes[0] * np.float32(512)
    part = planes[1] * np.float32(511)
    place -= part
    place -= planes[2]
    place += np.float32(255 * 513)
    places = torch.from_numpy(place.astype(np.int32).reshape(-1))
    hue: Bytes = torch.index_select(torch.from_numpy(hue_table()), 0, places).numpy().reshape(place.shape)
    return hue


def _value_and_reach(planes: Planes) -> tuple[Plane, Plane]:
    """The greatest of the three channels, and ``saturation * value / (255 * 85)`` with the saturation from 0 to 255."""
    red, green, blue = planes
    value, reach = np.maximum(red, green), np.minimum(red, green)
    np.maximum(value, blue, out=value)
    np.minimum(reach, blue, out=reach)
    np.subtract(value, reach, out=reach)
    reach /= torch.from_numpy(value).clamp(min=1).numpy()
    reach *= np.float32(255)  # where Pillow has double precision; of all bytes, none is another for it
    np.floor(reach, out=reach)
    reach *= value
    reach *= np.float32(1 / (255 * 85))
    return value, reach


@cache
def hue_table() -> UInt8[np.ndarray, " n"]:
    """The hue for each ``512 * (red - green + 255) + (green - blue + 255)``.

    In the single and double precision of Pillow, on which depends what becomes of ties.
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


def _stretch(planes: Planes, center: Float[np.ndarray, "*n _ _"], factor: Factor) -> None:
    """``center + factor * (planes - center)``."""
    planes -= center
    planes *= np.asarray(factor, dtype=np.float32)
    planes += center
    _to_whole(planes, factor)


def _to_whole(planes: Planes, factor: Factor) -> None:
    values = torch.from_numpy(planes)  # torch's clamp takes half the time of numpy's clip
    if np.any(np.asarray(factor) > 1):  # no other leads out of the range
        values.clamp_(0, 255)
    values.floor_()
