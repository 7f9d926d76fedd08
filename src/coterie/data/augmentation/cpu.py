"""The CPU's applier: images and what was drawn for them become views. One process, image by image, all crops of each."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt, UInt8
from torch import Tensor

from coterie.data.augmentation import color as colors
from coterie.data.augmentation.blur import blur, box
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Box, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan

_TOGETHER = 2**18  # values of the views that are finished at once: more would leave the processor's cache
_NOTHING = -1  # in an order of operations
_JITTER = {
    BRIGHTNESS: colors.brighten,
    CONTRAST: colors.contrast,
    SATURATION: colors.saturate,
    HUE: colors.turn_hue,
}

Image = UInt[np.ndarray, "h w c"]
View = UInt8[np.ndarray, "_ _ _"] | Float[np.ndarray, "_ _ _"]  # channels, side, side; lists hold several sizes


def augment(
    image: Image, plan: ViewPlan, draws: ViewParameters, row: int, views: Sequence[int] | None = None
) -> list[View]:
    """Make the views of one image.

    In this order: crop and resize (bilinear, antialiased, as Pillow), mirror and turn, color jitter in the drawn
    order, grayscale, Gaussian blur, solarize. The color operations (jitter, grayscale, solarize) are for three channels
    of 8 bits; every other image is only cropped, mirrored, turned and blurred. Nothing is normalized here.

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


def augment_batch(
    images: Iterable[Image], plan: ViewPlan, draws: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """Make the views of many images, each pixel as ``augment`` makes it; of small views in half the time.

    Args:
        images: those of ``draws``, in its order; taken one by one, so that not all need to be in memory.
        plan: says the size of each view.
        draws: of these images.
        views: the numbers of those that are wanted.

    Returns:
        For each view that is wanted, that of every image.
    """
    return augment_crops_batch(crop_batch(images, plan, draws, views), draws, views)


def crop_batch(
    images: Iterable[Image], plan: ViewPlan, draws: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """The crops of many images and nothing more: all that a worker does where the device does the rest.

    Arguments and result as of ``augment_batch``.
    """
    made = [_cut(image, plan, draws, row, views) for row, image in enumerate(images)]
    return [list(view) for view in zip(*made, strict=True)]


def augment_crops_batch(
    cuts: Sequence[Sequence[View]], draws: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """From crops, of each view those of all images, to finished views."""
    places = [(row, view) for view, made in zip(views, cuts, strict=True) for row in range(len(made))]
    crops = chain.from_iterable(cuts)
    made = [_mirror_and_turn(cut, draws, row, view) for cut, (row, view) in zip(crops, places, strict=True)]
    _finish(made, draws, places)
    count = len(draws.flip)
    return [made[first : first + count] for first in range(0, len(made), count)]


def _cut(image: Image, plan: ViewPlan, draws: ViewParameters, row: int, views: Sequence[int]) -> list[View]:
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


def _mirror_and_turn(cut: View, draws: ViewParameters, row: int, view: int) -> View:
    axes = [2] * bool(draws.flip[row, view]) + [1] * bool(draws.vertical_flip[row, view])
    if axes:
        cut = torch.flip(torch.from_numpy(cut), axes).numpy()  # ten times as fast as to copy numpy's ``[::-1]``
    turns = int(draws.quarter_turns[row, view])
    return np.rot90(cut, turns, (1, 2)) if turns else cut


class _Drawn(NamedTuple):
    """What was drawn for N views.

    Attributes:
        order: of the jitter's operations; ``_NOTHING`` for those that are left out.
        factors: of each operation: brightness, contrast, saturation, hue.
        gray: whether the view turns gray.
        sigma: of the blur; 0 = none.
        reach: of the blur's box; -1 = none.
        solarize: whether the bright is inverted.
    """

    order: Int[np.ndarray, "n 4"]
    factors: Float[np.ndarray, "n 4"]
    gray: Bool[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    reach: Int[np.ndarray, " n"]
    solarize: Bool[np.ndarray, " n"]


def _finish(cuts: list[View], draws: ViewParameters, places: Sequence[tuple[int, int]]) -> None:
    """Colors and blur of any number of views, each replaced in the list; skipped where nothing was drawn."""
    if not cuts:
        return
    drawn = _drawn(cuts, draws, places)
    for numbers in _together(cuts, drawn):
        _finish_alike(cuts, numbers, _Drawn(*(each[numbers] for each in drawn)))


def _drawn(cuts: Sequence[View], draws: ViewParameters, places: Sequence[tuple[int, int]]) -> _Drawn:
    at = tuple(np.array(places).T)
    colored = np.array([len(cut) == 3 and cut.dtype == np.uint8 for cut in cuts])
    factors = np.stack([draws.brightness[at], draws.contrast[at], draws.saturation[at], draws.hue[at]], axis=1)
    order = np.where((colored & draws.jitter[at])[:, None], draws.order[at], _NOTHING)
    order[(order == HUE) & (factors[:, [HUE]] == 0)] = _NOTHING  # a turn by 0 would still round
    sigma = draws.blur[at]
    reach = np.array([box(each)[0] if each else -1 for each in sigma.tolist()])
    return _Drawn(order, factors, colored & draws.grayscale[at], sigma, reach, colored & draws.solarize[at])


def _together(cuts: Sequence[View], drawn: _Drawn) -> Iterator[list[int]]:
    """The numbers of views of one size and depth, gray or not, a few at a time; without those that nothing happens to.

    Those for which the same was drawn come one after the other.
    """
    busy = (drawn.order != _NOTHING).any(axis=1) | drawn.gray | (drawn.reach >= 0) | drawn.solarize
    groups: dict[tuple[tuple[int, ...], np.dtype, bool], list[int]] = defaultdict(list)
    ranked = np.lexsort((drawn.reach, *drawn.order.T[::-1]))
    for number in ranked[busy[ranked]].tolist():
        groups[cuts[number].shape, cuts[number].dtype, bool(drawn.gray[number])].append(number)
    for (shape, _, _), numbers in groups.items():
        few = max(1, _TOGETHER // math.prod(shape))
        for first in range(0, len(numbers), few):
            yield numbers[first : first + few]


def _finish_alike(cuts: list[View], numbers: Sequence[int], drawn: _Drawn) -> None:
    """Views of one size, all at once: an operation on a small view takes less time than calling it."""
    dtype = cuts[numbers[0]].dtype
    planes = np.empty((len(cuts[numbers[0]]), len(numbers), *cuts[numbers[0]].shape[1:]), dtype=np.float32)
    for place, number in enumerate(numbers):
        planes[:, place] = cuts[number]
    for order in drawn.order.T:
        for operation in sorted(set(order.tolist()) - {_NOTHING}):
            for part, chosen in _those(planes, order == operation):
                _JITTER[operation](part, drawn.factors[chosen, operation, None, None])
    if drawn.gray[0]:
        planes = colors.luma(planes)[None]  # one plane will do until the end
    for reach in sorted(set(drawn.reach.tolist()) - {-1}):
        for part, chosen in _those(planes, drawn.reach == reach):
            blur(part, drawn.sigma[chosen], whole=dtype == np.uint8)
    if drawn.solarize.any():
        for part, _ in _those(planes, drawn.solarize):
            colors.solarize(part)
    finished = planes.astype(dtype).swapaxes(0, 1)
    for number, view in zip(numbers, finished, strict=True):
        cuts[number] = view.repeat(3, axis=0) if drawn.gray[0] else view


def _those(
    planes: Float[np.ndarray, "c n h w"], wanted: Bool[np.ndarray, " n"]
) -> Iterator[tuple[Float[np.ndarray, "c few h w"], Int[np.ndarray, " few"]]]:
    """The planes of some views, to be changed in place, and their places; what was changed is then put back."""
    chosen = np.flatnonzero(wanted)
    neighbors = chosen[-1] - chosen[0] + 1 == len(chosen)
    part = planes[:, chosen[0] : chosen[-1] + 1] if neighbors else planes[:, chosen]
    yield part, chosen
    if not neighbors:
        planes[:, chosen] = part


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
    scale, shift = _scale_and_shift(mean, std, 255.0 if views.dtype == torch.uint8 else 1.0, views.device)
    values = views.to(torch.float32, copy=True)
    return values.mul_(scale[:, None, None]).sub_(shift[:, None, None]).to(dtype)


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], top: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Kept, for to bring them to a GPU anew would make each step wait for it."""
    scale = torch.tensor([1 / (top * deviation) for deviation in std], dtype=torch.float32, device=device)
    shift = torch.tensor([m / d for m, d in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale, shift
