"""The CPU's applier: images and what was drawn for them become views. One process, image by image, all crops of each."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt, UInt8
from torch import Tensor

from coterie.data import colors
from coterie.data.blur import blur
from coterie.data.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Box, Draws
from coterie.data.views import ViewPlan

_TOGETHER = 2**16  # values of the views that are finished at once: more would leave the processor's cache

Image = UInt[np.ndarray, "h w c"]
View = UInt8[np.ndarray, "_ _ _"] | Float[np.ndarray, "_ _ _"]  # channels, side, side; lists hold several sizes


def apply(image: Image, plan: ViewPlan, draws: Draws, row: int, views: Sequence[int] | None = None) -> list[View]:
    """Make the views of one image.

    In this order: crop and resize (bilinear, antialiased, as Pillow), mirror and turn, colour jitter in the drawn
    order, grayscale, Gaussian blur, solarize. The colour operations (jitter, grayscale, solarize) are for three channels
    of 8 bits; every other image is only cropped, mirrored, turned and blurred. Nothing is normalised here.

    Args:
        image: uint8 or uint16, C channels.
        plan: says the size of each view.
        draws: of a batch that has this image.
        row: the image's place in that batch.
        views: the numbers of those that are wanted; None = all of the plan.

    Returns:
        The views in that order: uint8, or for images of 16 bits float32 from 0 to 1.
    """
    wanted = range(plan.num_views) if views is None else views
    made = [
        _mirror_and_turn(cut, draws, row, view)
        for view, cut in zip(wanted, _cut(image, plan, draws, row, wanted), strict=True)
    ]
    _finish(made, draws, [(row, view) for view in wanted])
    return made


def apply_batch(images: Iterable[Image], plan: ViewPlan, draws: Draws, views: Sequence[int]) -> list[list[View]]:
    """Make the views of many images, each pixel as ``apply`` makes it; of small views in half the time.

    Args:
        images: those of ``draws``, in its order; taken one by one, so that not all need to be in memory.
        plan: says the size of each view.
        draws: of these images.
        views: the numbers of those that are wanted.

    Returns:
        For each view that is wanted, that of every image.
    """
    return finish_batch(cut_batch(images, plan, draws, views), draws, views)


def cut_batch(images: Iterable[Image], plan: ViewPlan, draws: Draws, views: Sequence[int]) -> list[list[View]]:
    """The crops of many images and nothing more: all that a worker does where the device does the rest.

    Arguments and result as of ``apply_batch``.
    """
    made = [_cut(image, plan, draws, row, views) for row, image in enumerate(images)]
    return [list(view) for view in zip(*made, strict=True)]


def finish_batch(cuts: Sequence[Sequence[View]], draws: Draws, views: Sequence[int]) -> list[list[View]]:
    """From crops, of each view those of all images, to finished views."""
    places = [(row, view) for view, made in zip(views, cuts, strict=True) for row in range(len(made))]
    crops = chain.from_iterable(cuts)
    made = [_mirror_and_turn(cut, draws, row, view) for cut, (row, view) in zip(crops, places, strict=True)]
    _finish(made, draws, places)
    count = len(draws.flip)
    return [made[first : first + count] for first in range(0, len(made), count)]


def _cut(image: Image, plan: ViewPlan, draws: Draws, row: int, views: Sequence[int]) -> list[View]:
    """The crops of one image."""
    height, width, _ = image.shape
    pixels = image if image.dtype == np.uint8 else image.astype(np.float32) / np.float32(65535)
    source = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)
    sizes, boxes = plan.sizes, draws.boxes(row, height, width, views)
    return [crop(source, box, sizes[view]).numpy() for view, box in zip(views, boxes, strict=True)]


def crop(source: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box (top, left, height, width) out of ``[C, H, W]`` and resize it to a square.

    Torch's antialiased resize is Pillow's method with weights of 16 instead of 22 bits, and takes a quarter of the time:
    of a photograph's 8-bit values one in forty differs, by 1 (hardly ever by 2).
    """
    top, left, height, width = box
    part = source[None, :, top : top + height, left : left + width]
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]


def _mirror_and_turn(cut: View, draws: Draws, row: int, view: int) -> View:
    if draws.flip[row, view]:
        cut = cut[:, :, ::-1]
    if draws.vertical_flip[row, view]:
        cut = cut[:, ::-1]
    turns = int(draws.quarter_turns[row, view])
    return np.rot90(cut, turns, (1, 2)) if turns else cut


def _finish(cuts: list[View], draws: Draws, places: Sequence[tuple[int, int]]) -> None:
    """Colours and blur of any number of views, each replaced in the list; skipped where nothing was drawn.

    An operation on a small view takes less time than calling it. So views of one size for which the same operations
    were drawn, in the same order, go through them together.
    """
    for alike, drawn in _alike(cuts, draws, places):
        rows, views = np.array([places[number] for number in alike]).T
        planes = np.stack([cuts[number] for number in alike], axis=1).astype(np.float32)  # [C, views, H, W]
        dtype = cuts[alike[0]].dtype
        for operation in drawn.jitter:
            _jitter(planes, operation, draws, rows, views)
        if drawn.gray:
            planes = colors.luma(planes)[None]  # one plane will do until the end
        if drawn.blur:
            for number, sigma in enumerate(draws.blur[rows, views].tolist()):
                planes[:, number] = blur(np.ascontiguousarray(planes[:, number]), sigma, whole=dtype == np.uint8)
        if drawn.solarize:
            colors.solarize(planes)
        finished = planes.astype(dtype).swapaxes(0, 1)
        for number, view in zip(alike, finished, strict=True):
            cuts[number] = view.repeat(3, axis=0) if drawn.gray else view


class _Drawn(NamedTuple):
    """The operations of a view."""

    jitter: tuple[int, ...]
    gray: bool
    blur: bool
    solarize: bool


def _alike(cuts: Sequence[View], draws: Draws, places: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], _Drawn]]:
    """The numbers of views that are done alike, a few at a time, and how; those with nothing to do are left out."""
    groups: dict[tuple[tuple[int, ...], np.dtype, _Drawn], list[int]] = defaultdict(list)
    for number, (cut, (row, view)) in enumerate(zip(cuts, places, strict=True)):
        colored = len(cut) == 3 and cut.dtype == np.uint8
        operations = draws.order[row, view].tolist() if colored and draws.jitter[row, view] else ()
        drawn = _Drawn(
            jitter=tuple(each for each in operations if each != HUE or draws.hue[row, view]),  # 0 would still round
            gray=colored and bool(draws.grayscale[row, view]),
            blur=bool(draws.blur[row, view]),
            solarize=colored and bool(draws.solarize[row, view]),
        )
        if any(drawn):
            groups[cut.shape, cut.dtype, drawn].append(number)
    for (shape, _, drawn), alike in groups.items():
        few = max(1, _TOGETHER // math.prod(shape))
        for first in range(0, len(alike), few):
            yield alike[first : first + few], drawn


def _jitter(
    planes: colors.Planes, operation: int, draws: Draws, rows: Int[np.ndarray, " n"], views: Int[np.ndarray, " n"]
) -> None:
    each = (rows, views, None, None)  # of ``[B, V]``, a number for each view, ``[N, 1, 1]``
    if operation == BRIGHTNESS:
        colors.brighten(planes, draws.brightness[each])
    elif operation == CONTRAST:
        colors.contrast(planes, draws.contrast[each])
    elif operation == SATURATION:
        colors.saturate(planes, draws.saturation[each])
    elif operation == HUE:
        colors.turn_hue(planes, draws.hue[each])


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
