"""Augmentation on the CPU: one process turns images and their view parameters into views, all crops of an image at once."""

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
from coterie.data.augmentation.blur import blur, box_filter
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, CropBox, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan

_MAX_VALUES = 2**20  # values of the views that are augmented at once: fewer cost more calls, more exceed the cache
_SKIPPED = -1  # in an order of operations
_JITTER = {
    BRIGHTNESS: colors.adjust_brightness,
    CONTRAST: colors.adjust_contrast,
    SATURATION: colors.adjust_saturation,
    HUE: colors.adjust_hue,
}

Image = UInt[np.ndarray, "h w c"]
View = UInt8[np.ndarray, "_ _ _"] | Float[np.ndarray, "_ _ _"]  # channels, size, size; lists hold several sizes
_Block = UInt8[np.ndarray, "_ c _ _"] | Float[np.ndarray, "_ c _ _"]  # views of one size


def augment(
    image: Image, plan: ViewPlan, parameters: ViewParameters, row: int, views: Sequence[int] | None = None
) -> list[View]:
    """Make the views of one image.

    The order is: crop and resize (bilinear, antialiased, like Pillow), flip and rotate, color jitter in the sampled
    order, grayscale, Gaussian blur, solarize. The color operations (jitter, grayscale, solarize) apply to three channels
    of 8 bits; all other images are only cropped, flipped, rotated and blurred. Nothing is normalized here.

    Args:
        image: ``[H, W, C]``, uint8 or uint16.
        plan: Gives the size of each view.
        parameters: Parameters of a batch that contains this image.
        row: Row of the image in that batch.
        views: Numbers of the views to make; None = all.

    Returns:
        The views ``[C, size, size]`` in that order: uint8, or float32 in [0, 1] for 16-bit images.
    """
    numbers = range(plan.num_views) if views is None else views
    flipped = [
        _flip_and_rotate(crop, parameters, row, view)
        for view, crop in zip(numbers, _crop_views(image, plan, parameters, row, numbers), strict=True)
    ]
    _adjust(flipped, parameters, [(row, view) for view in numbers])
    return [np.ascontiguousarray(view) for view in flipped]


def augment_batch(
    images: Iterable[Image], plan: ViewPlan, parameters: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """Make the views of many images, with exactly the pixels of ``augment``; for small views in half the time.

    Args:
        images: Images in the order of ``parameters``; consumed one by one, so they need not all be in memory.
        plan: Gives the size of each view.
        parameters: Parameters of these images.
        views: Numbers of the views to make.

    Returns:
        For each of these views, a list with that view of each image.
    """
    return augment_crops_batch(crop_batch(images, plan, parameters, views), parameters, views)


def crop_batch(
    images: Iterable[Image], plan: ViewPlan, parameters: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """Make only the crops of many images: all that a worker does when the GPU does the rest.

    Takes and returns the same as ``augment_batch``, in any order in memory.
    """
    crops = [_crop_views(image, plan, parameters, row, views) for row, image in enumerate(images)]
    return [list(view) for view in zip(*crops, strict=True)]


def augment_crops_batch(
    crops: Sequence[Sequence[View]], parameters: ViewParameters, views: Sequence[int]
) -> list[list[View]]:
    """Turn the crops of ``crop_batch`` into finished views.

    Args:
        crops: For each view, its crop of each image.
        parameters: Parameters of these images.
        views: Numbers of these views.

    Returns:
        For each view, a list with that view of each image.
    """
    places = [(row, view) for view, images in zip(views, crops, strict=True) for row in range(len(images))]
    flat = chain.from_iterable(crops)
    flipped = [_flip_and_rotate(crop, parameters, row, view) for crop, (row, view) in zip(flat, places, strict=True)]
    _adjust(flipped, parameters, places)
    count = len(parameters.flip)
    return [flipped[first : first + count] for first in range(0, len(flipped), count)]


def _crop_views(image: Image, plan: ViewPlan, parameters: ViewParameters, row: int, views: Sequence[int]) -> list[View]:
    """The crops of one image."""
    height, width, _ = image.shape
    pixels = image if image.dtype == np.uint8 else image.astype(np.float32) / np.float32(65535)
    source = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)
    sizes, boxes = plan.sizes, parameters.boxes(row, height, width, views)
    return [resized_crop(source, box, sizes[view]).numpy() for view, box in zip(views, boxes, strict=True)]


def resized_crop(image: Tensor, box: CropBox, size: int) -> Tensor:
    """Crop a box (top, left, height, width) of ``[C, H, W]`` and resize it to ``[C, size, size]``.

    Torch's antialiased resize uses Pillow's method, with weights of 16 instead of 22 bits, in a quarter of the time. Of the
    8-bit values of a photograph, one in forty differs by 1 (hardly any by 2).
    """
    top, left, height, width = box
    part = image[None, :, top : top + height, left : left + width]
    if image.dtype == torch.uint8 and len(image) == 3:  # else the resize copies it, and its result once more
        part = part.contiguous(memory_format=torch.channels_last)
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]


def _flip_and_rotate(crop: View, parameters: ViewParameters, row: int, view: int) -> View:
    """Only the order in memory changes: the next copy follows it."""
    vertical, horizontal = (-1 if flip[row, view] else 1 for flip in (parameters.vertical_flip, parameters.flip))
    return np.rot90(crop[:, ::vertical, ::horizontal], int(parameters.quarter_turns[row, view]), (1, 2))


class _Adjustments(NamedTuple):
    """Color operations and blur of N views.

    Attributes:
        order: Order of the jitter operations; ``_SKIPPED`` for those left out.
        factors: Factor of each operation: brightness, contrast, saturation, hue.
        gray: Convert to gray.
        sigma: Standard deviation of the blur; 0 = none.
        reach: Reach of the box filter of the blur; -1 = none.
        solarize: Invert bright values.
    """

    order: Int[np.ndarray, "n 4"]
    factors: Float[np.ndarray, "n 4"]
    gray: Bool[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    reach: Int[np.ndarray, " n"]
    solarize: Bool[np.ndarray, " n"]


def _adjust(views: list[View], parameters: ViewParameters, places: Sequence[tuple[int, int]]) -> None:
    """Apply colors and blur to any number of views, replacing each in the list; views without any are skipped.

    Args:
        views: Cropped and flipped views.
        parameters: Parameters of a batch.
        places: (row, view number) of each view in the parameters.
    """
    if not views:
        return
    adjustments = _adjustments(views, parameters, places)
    for numbers in _chunks(views, adjustments):
        _adjust_chunk(views, numbers, _Adjustments(*(each[numbers] for each in adjustments)))


def _adjustments(views: Sequence[View], parameters: ViewParameters, places: Sequence[tuple[int, int]]) -> _Adjustments:
    at = tuple(np.array(places).T)
    colored = np.array([len(view) == 3 and view.dtype == np.uint8 for view in views])
    factors = np.stack(
        [parameters.brightness[at], parameters.contrast[at], parameters.saturation[at], parameters.hue[at]], axis=1
    )
    order = np.where((colored & parameters.jitter[at])[:, None], parameters.order[at], _SKIPPED)
    order[(order == HUE) & (factors[:, [HUE]] == 0)] = _SKIPPED  # a shift by 0 would still round
    sigma = parameters.blur[at]
    reach = np.array([box_filter(each)[0] if each else -1 for each in sigma.tolist()])
    return _Adjustments(
        order, factors, colored & parameters.grayscale[at], sigma, reach, colored & parameters.solarize[at]
    )


def _chunks(views: Sequence[View], adjustments: _Adjustments) -> Iterator[list[int]]:
    """Numbers of views of the same size and depth, all gray or all not, a few at a time; views without any are left out.

    Views with the same operations are adjacent.
    """
    order, _, gray, _, reach, solarize = adjustments
    changed = (order != _SKIPPED).any(axis=1) | gray | (reach >= 0) | solarize
    groups: dict[tuple[tuple[int, ...], np.dtype, bool], list[int]] = defaultdict(list)
    ranked = np.lexsort((reach, *order.T[::-1]))
    for number in ranked[changed[ranked]].tolist():
        groups[views[number].shape, views[number].dtype, bool(gray[number])].append(number)
    for (shape, _, _), numbers in groups.items():
        count = max(1, _MAX_VALUES // math.prod(shape))
        for first in range(0, len(numbers), count):
            yield numbers[first : first + count]


def _adjust_chunk(views: list[View], numbers: Sequence[int], adjustments: _Adjustments) -> None:
    """Adjust views of one size together: an operation on a small view takes less time than calling it."""
    order, factors, gray, sigma, reaches, solarize = adjustments
    block = np.empty((len(numbers), *views[numbers[0]].shape), dtype=views[numbers[0]].dtype)
    np.stack(
        [views[number] for number in numbers], out=block
    )  # alone it would keep the order in memory of rotated views
    for step in order.T:
        for operation in sorted(set(step.tolist()) - {_SKIPPED}):
            for part, chosen in _selected(block, step == operation):
                _JITTER[operation](part, factors[chosen, operation])
    if gray[0]:
        block = colors.luma(block)[:, None]  # one channel is enough until the end
    for reach in sorted(set(reaches.tolist()) - {-1}):
        for part, chosen in _selected(block, reaches == reach):
            blur(part, sigma[chosen])
    for part, _ in _selected(block, solarize):
        colors.solarize(part)
    for number, view in zip(numbers, block, strict=True):
        views[number] = view.repeat(3, axis=0) if gray[0] else view


def _selected(block: _Block, mask: Bool[np.ndarray, " n"]) -> Iterator[tuple[_Block, Int[np.ndarray, " few"]]]:
    """Yield the selected views once, if any, to be changed in place, and their numbers; then store the changes."""
    chosen = np.flatnonzero(mask)
    if not len(chosen):
        return
    adjacent = chosen[-1] - chosen[0] + 1 == len(chosen)
    part = block[chosen[0] : chosen[-1] + 1] if adjacent else block[chosen]
    yield part, chosen
    if not adjacent:
        block[chosen] = part


def normalize(
    views: Tensor, mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "b c h w"]:
    """Normalize each channel, ``(x - mean) / std`` with x in [0, 1], on the device of the views.

    Args:
        views: ``[B, C, H, W]``, uint8 (divided by 255) or floating point (used as is).
        mean: Mean of each channel.
        std: Standard deviation of each channel.
        dtype: Type of the result.
    """
    scale, shift = _scale_and_shift(mean, std, 255.0 if views.dtype == torch.uint8 else 1.0, views.device)
    values = views.to(torch.float32, copy=True)
    return values.mul_(scale[:, None, None]).sub_(shift[:, None, None]).to(dtype)


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], white: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cached: uploading them again would stall every step."""
    scale = torch.tensor([1 / (white * deviation) for deviation in std], dtype=torch.float32, device=device)
    shift = torch.tensor([m / d for m, d in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale, shift
