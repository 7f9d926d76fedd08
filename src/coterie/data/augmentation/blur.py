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

Planes = Float[np.ndarray, "c n h w"]


def blur(planes: Planes, sigmas: Float[np.ndarray, " n"], *, whole: bool) -> None:
    """Blur each plane of N views.

    Args:
        planes: changed in place.
        sigmas: of each view, the standard deviation of the Gaussian, in pixels, above 0; all of one reach (``box``).
        whole: the planes hold whole numbers, and the result of each filter is rounded to such.
    """
    boxes = [box(sigma) for sigma in sigmas.tolist()]
    (reach,) = {each[0] for each in boxes}
    weight, edge = np.array([each[1:] for each in boxes]).T[..., None, None]
    ratio, weight = torch.from_numpy((edge / weight).astype(np.float32)), weight.astype(np.float32)
    values = np.ascontiguousarray(planes)
    far, near = np.empty_like(values), np.empty_like(values) if reach else values
    far_tensor, near_tensor = torch.from_numpy(far), torch.from_numpy(near)
    for axis in (3, 3, 3, 2, 2, 2):
        _add_neighbors(values, reach + 1, axis, far)
        if reach:
            _add_neighbors(values, 1, axis, near)
            near += values
        for distance in range(2, reach + 1):
            near += _add_neighbors(values, distance, axis, np.empty_like(values))
        torch.addcmul(near_tensor, far_tensor, ratio, out=far_tensor)
        far *= weight
        if whole:
            np.rint(far, out=values)
        else:
            np.copyto(values, far)
    if values is not planes:
        np.copyto(planes, values)


def box(sigma: float) -> tuple[int, float, float]:
    """The box filter of which three in a row have this standard deviation.

    Returns:
        How many neighbors on each side have the full weight; that weight; the weight of the one beyond.
    """
    variance = sigma * sigma / PASSES
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    weight = 1 / (2 * (reach + fraction) + 1)
    edge_weight = (1 - (2 * reach + 1) * weight) / 2
    return reach, weight * (1 - _HAIR), edge_weight * (1 - _HAIR)


def _add_neighbors(planes: Planes, distance: int, axis: int, sums: Planes) -> Planes:
    """``planes[i - distance] + planes[i + distance]`` along an axis, the outermost repeated, into ``sums``."""
    length = planes.shape[axis]
    step = distance * (planes.shape[3] if axis == 2 else 1)
    if length > 2 * distance:  # the middle, as if all were one line: twice as fast, and the ends are put right below
        line, summed_line = planes.reshape(-1), sums.reshape(-1)
        np.add(line[: -2 * step], line[2 * step :], out=summed_line[step:-step])
    lines, summed = planes.swapaxes(0, axis), sums.swapaxes(0, axis)
    for i in range(min(distance, length)):
        np.add(lines[0], lines[min(i + distance, length - 1)], out=summed[i])
        np.add(lines[-1], lines[max(length - 1 - i - distance, 0)], out=summed[length - 1 - i])
    return sums
