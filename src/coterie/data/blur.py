"""Pillow's Gaussian blur on the planes of a view.

Pillow stands a Gaussian in for by three box filters in a row along each axis, each with a fractional edge (Gwosdek,
Grewenig, Bruhn, Weickert: "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011). The
outermost pixel is repeated, and values are rounded, at every one of the six. So it is done here, on whole planes at once.
"""

import math

import numpy as np
from jaxtyping import Float

PASSES = 3
_HAIR = 3e-7  # Pillow's weights have 24 bits and are cut off, so that what lies half way between two values falls

Planes = Float[np.ndarray, "c h w"]


def blur(planes: Planes, sigma: float, *, whole: bool) -> Planes:
    """Blur each plane.

    Args:
        planes: float32; used as scratch space.
        sigma: the standard deviation of the Gaussian, in pixels, above 0.
        whole: the planes hold whole numbers, and each filter's result is rounded to such.
    """
    reach, weight, edge_weight = box(sigma)
    other = np.empty_like(planes)
    for axis in (2, 2, 2, 1, 1, 1):
        _filter(planes, other, axis, reach, weight, edge_weight)
        if whole:
            np.rint(other, out=other)
        planes, other = other, planes
    return planes


def box(sigma: float) -> tuple[int, np.float32, np.float32]:
    """The box filter of which three in a row have this standard deviation.

    Returns:
        How many neighbours on each side have the full weight; that weight; the weight of the one beyond.
    """
    variance = sigma * sigma / PASSES
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    weight = 1 / (2 * (reach + fraction) + 1)
    edge_weight = (1 - (2 * reach + 1) * weight) / 2
    return reach, np.float32(weight * (1 - _HAIR)), np.float32(edge_weight * (1 - _HAIR))


def _filter(planes: Planes, out: Planes, axis: int, reach: int, weight: np.float32, edge_weight: np.float32) -> None:
    """One box filter along an axis of contiguous planes, which are overwritten too."""
    _add_neighbours(planes, reach + 1, axis, out)
    out *= edge_weight
    near = planes.copy() if reach else planes
    pair = np.empty_like(planes) if reach else planes
    for distance in range(1, reach + 1):
        _add_neighbours(planes, distance, axis, pair)
        near += pair
    near *= weight
    out += near


def _add_neighbours(planes: Planes, distance: int, axis: int, out: Planes) -> None:
    """``planes[i - distance] + planes[i + distance]`` along an axis, the outermost repeated."""
    length = planes.shape[axis]
    step = distance * (planes.shape[2] if axis == 1 else 1)
    if length > 2 * distance:  # the middle, as if all were one line: twice as fast, and the ends are put right below
        line, out_line = planes.reshape(-1), out.reshape(-1)
        np.add(line[: -2 * step], line[2 * step :], out=out_line[step:-step])
    lines, out_lines = planes.swapaxes(0, axis), out.swapaxes(0, axis)
    for i in range(min(distance, length)):
        np.add(lines[0], lines[min(i + distance, length - 1)], out=out_lines[i])
        np.add(lines[-1], lines[max(length - 1 - i - distance, 0)], out=out_lines[length - 1 - i])
