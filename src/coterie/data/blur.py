"""Pillow's Gaussian blur on the planes of a view.

Pillow stands a Gaussian in for by three box filters in a row along each axis, each with a fractional edge (Gwosdek,
Grewenig, Bruhn, Weickert: "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011). The
outermost pixel is repeated, and values are rounded, at every one of the six. So it is done here, on whole planes.
"""

import math

import numpy as np
import torch
from jaxtyping import Float

PASSES = 3
_HAIR = 3e-7  # Pillow's weights are cut off at 24 bits: at most radii, what lies half way between values falls

Planes = Float[np.ndarray, "c h w"]


def blur(planes: Planes, sigma: float, *, whole: bool) -> Planes:
    """Blur each plane.

    Args:
        planes: left as they are.
        sigma: the standard deviation of the Gaussian, in pixels, above 0.
        whole: the planes hold whole numbers, and the result of each filter is rounded to such.
    """
    reach, weight, edge_weight = box(sigma)
    for axis in (2, 2, 2, 1, 1, 1):
        near, far = planes, _neighbours(planes, reach + 1, axis)
        for distance in range(1, reach + 1):
            near = near + _neighbours(planes, distance, axis)
        torch.add(torch.from_numpy(near), torch.from_numpy(far), alpha=edge_weight / weight, out=torch.from_numpy(far))
        far *= np.float32(weight)
        planes = np.rint(far, out=far) if whole else far
    return planes


def box(sigma: float) -> tuple[int, float, float]:
    """The box filter of which three in a row have this standard deviation.

    Returns:
        How many neighbours on each side have the full weight; that weight; the weight of the one beyond.
    """
    variance = sigma * sigma / PASSES
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    weight = 1 / (2 * (reach + fraction) + 1)
    edge_weight = (1 - (2 * reach + 1) * weight) / 2
    return reach, weight * (1 - _HAIR), edge_weight * (1 - _HAIR)


def _neighbours(planes: Planes, distance: int, axis: int) -> Planes:
    """``planes[i - distance] + planes[i + distance]`` along an axis, the outermost repeated."""
    sums = np.empty(planes.shape, dtype=np.float32)
    length = planes.shape[axis]
    step = distance * (planes.shape[2] if axis == 1 else 1)
    if length > 2 * distance:  # the middle, as if all were one line: twice as fast, and the ends are put right below
        line, summed_line = planes.reshape(-1), sums.reshape(-1)
        np.add(line[: -2 * step], line[2 * step :], out=summed_line[step:-step])
    lines, summed = planes.swapaxes(0, axis), sums.swapaxes(0, axis)
    for i in range(min(distance, length)):
        np.add(lines[0], lines[min(i + distance, length - 1)], out=summed[i])
        np.add(lines[-1], lines[max(length - 1 - i - distance, 0)], out=summed[length - 1 - i])
    return sums
