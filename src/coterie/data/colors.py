"""The colour operations on the planes of a view, value for value those of Pillow.

A view is worked on as float32 ``[3, H, W]`` that holds whole numbers from 0 to 255: numpy handles such planes two to
four times as fast as Pillow its packed pixels. Functions change the planes in place and leave whole numbers in them.
Pillow computes in single precision and cuts the fraction off, and so is it done here: for the same factor, the result
is that of torchvision's function on a PIL image, in every pixel; only of a turned hue, one value in a million is off by
one.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

Planes = Float[np.ndarray, "3 h w"]
Plane = Float[np.ndarray, "h w"]
Bytes = UInt8[np.ndarray, "h w"]

_LUMA = np.array([19595, 38470, 7471], dtype=np.float32) / 65536  # .299, .587, .114 in 16 bits: sums are exact


def brighten(planes: Planes, factor: float) -> None:
    """Multiply by the factor."""
    planes *= np.float32(factor)
    _to_whole(planes, may_leave_range=factor > 1)


def contrast(planes: Planes, factor: float) -> None:
    """Stretch or shrink the distance from the view's mean grey."""
    mean = luma(planes).sum(dtype=np.float64) / planes[0].size
    _stretch(planes, np.float32(int(mean + 0.5)), factor)


def saturate(planes: Planes, factor: float) -> None:
    """Stretch or shrink the distance of each pixel from its own grey."""
    _stretch(planes, luma(planes), factor)


def solarize(planes: Float[np.ndarray, "c h w"]) -> None:
    """Invert the values from 128 up."""
    np.copyto(planes, 255 - planes, where=planes >= 128)


def luma(planes: Planes) -> Plane:
    """The grey of each pixel, a whole number (ITU-R 601-2)."""
    grey: Plane = planes[0] * _LUMA[0]
    part = planes[1] * _LUMA[1]
    grey += part
    np.multiply(planes[2], _LUMA[2], out=part)
    grey += part
    grey += np.float32(0.5)
    np.floor(grey, out=grey)
    return grey


def turn_hue(planes: Planes, turn: float) -> None:
    """Turn the colour circle: through hue, saturation and value of 8 bits each, as Pillow has them.

    Args:
        planes: changed in place.
        turn: 0.5 is half way round.
    """
    hue = _hue(planes)
    hue += np.uint8(int(turn * 255) % 256)  # past the end it begins again, of itself
    value, chroma = _value_and_chroma(planes)
    chroma /= np.clip(value, 1, 255)
    saturation = (chroma * np.float64(255)).astype(np.uint8)  # single, then double precision, as in C
    reach = saturation * value
    reach *= np.float32(1 / 255)

    # A channel is ``value - reach * share``. With the hue's place on the circle from 0 to 6, and for each channel its
    # own middle, the share is ``bent = clip(|place - middle|, 1, 2)`` less 1; for red it is 2 less bent.
    place = hue * np.float32(6 / 255)
    for plane, middle in zip(planes, (3, 2, 4), strict=True):
        np.subtract(place, np.float32(middle), out=plane)
        np.abs(plane, out=plane)
        np.clip(plane, 1, 2, out=plane)
        plane *= reach
    value += np.float32(0.5)  # so that floor rounds
    value += reach
    np.subtract(value, planes[1:], out=planes[1:])
    reach *= 3
    value -= reach
    planes[0] += value
    np.floor(planes, out=planes)


def _value_and_chroma(planes: Planes) -> tuple[Plane, Plane]:
    """The greatest of the three channels, and how far it is from the least."""
    red, green, blue = planes
    value, least = np.maximum(red, green), np.minimum(red, green)
    np.maximum(value, blue, out=value)
    np.minimum(least, blue, out=least)
    return value, np.subtract(value, least, out=least)


def _hue(planes: Planes) -> Bytes:
    """The hue of each pixel: 0 is red, 85 green, 170 blue; a function of red - green and green - blue."""
    place = planes[0] * np.float32(512)
    part = planes[1] * np.float32(511)
    place -= part
    place -= planes[2]
    place += np.float32(255 * 513)
    hue: Bytes = np.take(_hues(), place.astype(np.intp), mode="clip")
    return hue


@cache
def _hues() -> UInt8[np.ndarray, " n"]:
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


def _stretch(planes: Planes, center: Plane | np.float32, factor: float) -> None:
    """``center + factor * (planes - center)``."""
    planes -= center
    planes *= np.float32(factor)
    planes += center
    _to_whole(planes, may_leave_range=factor > 1)


def _to_whole(planes: Planes, may_leave_range: bool) -> None:
    if may_leave_range:
        np.clip(planes, 0, 255, out=planes)
    np.floor(planes, out=planes)
