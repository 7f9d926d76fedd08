"""Pillow's Gaussian blur, on many views at once.

Pillow approximates a Gaussian by three consecutive box filters along each axis, each with fractional edges (Gwosdek,
Grewenig, Bruhn, Weickert: "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011). It
repeats the outermost pixel and rounds after each of the six filters. So does this implementation.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

PASSES = 3
_ROUND_DOWN = 3e-7  # Pillow truncates weights to 24 bits: at most radii, values halfway between two integers round down

_Planes = Float32[np.ndarray, "n c h w"]


def blur(views: UInt8[np.ndarray, "n c h w"] | _Planes, sigmas: Float[np.ndarray, " n"]) -> None:
    """Blur each channel of N views, in place.

    Args:
        views: The views; of whole numbers, the result of each filter is rounded.
        sigmas: Standard deviation for each view, in pixels, above 0; all must have the same reach (see ``box_filter``).
    """
    filters = [box_filter(sigma) for sigma in sigmas.tolist()]
    (reach,) = {each[0] for each in filters}
    weight, edge = np.array([each[1:] for each in filters]).T[..., None, None, None]
    ratio, weight = torch.from_numpy((edge / weight).astype(np.float32)), weight.astype(np.float32)
    values = views.astype(np.float32)
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
        if views.dtype == np.uint8:
            np.rint(far, out=values)
        else:
            np.copyto(values, far)
    np.copyto(views, values, casting="unsafe")


def box_filter(sigma: float) -> tuple[int, float, float]:
    """The box filter that, applied three times, has this standard deviation.

    Returns:
        The number of neighbors on each side with the full weight; that weight; the weight of the next neighbor.
    """
    variance = sigma * sigma / PASSES
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance) / (6 * (variance - (reach + 1) ** 2))
    weight = 1 / (2 * (reach + fraction) + 1)
    edge_weight = (1 - (2 * reach + 1) * weight) / 2
    return reach, weight * (1 - _ROUND_DOWN), edge_weight * (1 - _ROUND_DOWN)


def _add_neighbors(planes: _Planes, distance: int, axis: int, sums: _Planes) -> _Planes:
    """Write ``planes[i - distance] + planes[i + distance]`` along an axis into ``sums``, repeating the outermost."""
    length = planes.shape[axis]
    step = distance * (planes.shape[3] if axis == 2 else 1)
    if length > 2 * distance:  # the middle, treating all planes as one line: twice as fast; the ends are fixed below
        line, line_sums = planes.reshape(-1), sums.reshape(-1)
        np.add(line[: -2 * step], line[2 * step :], out=line_sums[step:-step])
    lines, lines_sums = planes.swapaxes(0, axis), sums.swapaxes(0, axis)
    for i in range(min(distance, length)):
        np.add(lines[0], lines[min(i + distance, length - 1)], out=lines_sums[i])
        np.add(lines[-1], lines[max(length - 1 - i - distance, 0)], out=lines_sums[length - 1 - i])
    return sums
