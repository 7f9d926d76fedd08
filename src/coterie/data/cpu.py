"""The CPU's applier: an image and what was drawn for it become views. One process, one image, all of its crops."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt, UInt8
from torch import Tensor

from coterie.data import colors
from coterie.data.blur import blur
from coterie.data.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Box, Draws
from coterie.data.views import ViewPlan

Image = UInt[np.ndarray, "h w c"]
View = UInt8[np.ndarray, "c size size"] | Float[np.ndarray, "c size size"]


def apply(image: Image, plan: ViewPlan, draws: Draws, row: int) -> list[View]:
    """Make all views of one image.

    In this order: crop and resize (bilinear, antialiased, as Pillow), mirror and turn, colour jitter in the drawn
    order, grayscale, Gaussian blur, solarize. The colour operations (jitter, grayscale, solarize) are for three channels
    of 8 bits; every other image is only cropped, mirrored, turned and blurred. Nothing is normalised here.

    Args:
        image: uint8 or uint16, C channels.
        plan: says the size of each view.
        draws: of a batch that has this image.
        row: the image's place in that batch.

    Returns:
        A view each: uint8, or for images of 16 bits float32 from 0 to 1.
    """
    height, width, channels = image.shape
    colored = channels == 3 and image.dtype == np.uint8
    pixels = image if image.dtype == np.uint8 else image.astype(np.float32) / np.float32(65535)
    source = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)
    boxes = draws.boxes(row, height, width)
    views = []
    for view, (size, box) in enumerate(zip(plan.sizes, boxes, strict=True)):
        cut = _mirror_and_turn(crop(source, box, size), draws, row, view).numpy()
        views.append(_finish(cut, colored, draws, row, view))
    return views


def crop(source: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box (top, left, height, width) out of ``[C, H, W]`` and resize it to a square, as contiguous planes.

    Torch's antialiased resize is Pillow's method with weights of 16 instead of 22 bits, and takes a quarter of the time:
    of a photograph's 8-bit values one in forty differs, by 1 (hardly ever by 2).
    """
    top, left, height, width = box
    part = source[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0].contiguous()


def _mirror_and_turn(cut: Tensor, draws: Draws, row: int, view: int) -> Tensor:
    if draws.flip[row, view]:
        cut = cut.flip(2)
    if draws.vertical_flip[row, view]:
        cut = cut.flip(1)
    turns = int(draws.quarter_turns[row, view])
    return cut.rot90(turns, (1, 2)).contiguous() if turns else cut


def _finish(cut: View, colored: bool, draws: Draws, row: int, view: int) -> View:
    """Colours and blur, on planes of float32; skipped where nothing was drawn."""
    jitter, gray, solarize = (
        colored and bool(drawn[row, view]) for drawn in (draws.jitter, draws.grayscale, draws.solarize)
    )
    sigma = float(draws.blur[row, view])
    if not (jitter or gray or solarize or sigma):
        return cut
    planes = cut.astype(np.float32)
    if jitter:
        _jitter(planes, draws, row, view)
    if gray:
        planes = colors.luma(planes)[None]  # one plane will do until the end
    if sigma:
        planes = blur(planes, sigma, whole=cut.dtype == np.uint8)
    if solarize:
        colors.solarize(planes)
    finished = planes.astype(cut.dtype)
    return finished.repeat(3, axis=0) if gray else finished


def _jitter(planes: colors.Planes, draws: Draws, row: int, view: int) -> None:
    for operation in draws.order[row, view]:
        if operation == BRIGHTNESS:
            colors.brighten(planes, float(draws.brightness[row, view]))
        elif operation == CONTRAST:
            colors.contrast(planes, float(draws.contrast[row, view]))
        elif operation == SATURATION:
            colors.saturate(planes, float(draws.saturation[row, view]))
        elif operation == HUE and draws.hue[row, view]:  # a turn by nothing would still round
            colors.turn_hue(planes, float(draws.hue[row, view]))


def normalize(
    views: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b c h w"]:
    """``(x - mean) / std`` of each channel, where x runs from 0 to 1; on whatever device the views are.

    Args:
        views: ``[B, C, H, W]``, uint8 (divided by 255) or floating (taken as it is).
        mean: one number a channel.
        std: one number a channel.
        dtype: of the result.
    """
    top = 255.0 if views.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1 / (top * deviation) for deviation in std], dtype=torch.float32, device=views.device)
    shift = torch.tensor([m / d for m, d in zip(mean, std, strict=True)], dtype=torch.float32, device=views.device)
    values = views.to(torch.float32, copy=True)
    return values.mul_(scale[:, None, None]).sub_(shift[:, None, None]).to(dtype)
