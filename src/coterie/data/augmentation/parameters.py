"""What is drawn for each view: where its crop lies, and what happens to it after. Nothing here touches a pixel.

Every number is a pure function of (seed, epoch, image index, view number), and of nothing else: not of the batch that
an image comes in, nor of the worker that makes it, nor of what was drawn before. The key of the cipher (``philox``) is
``(seed, epoch)``; the pass that fills a memory before the first epoch is epoch -1. The counter is
``(block, view, image index, 0)``, and each block gives four uniforms:

| block | first | second | third | fourth |
|---|---|---|---|---|
| 0 | flip | vertical flip | rotation: whether | rotation: which |
| 1 | jitter: whether | jitter: order | brightness | contrast |
| 2 | saturation | hue | grayscale | blur: whether |
| 3 | blur: radius | solarize | (free) | (free) |
| 4 to 15 | (free) | | | |
| 16 to 25 | area | log ratio | top | left |

Blocks 16 to 25 are the ten tries at a box that fits into the image. A setting changes only what its own uniform turns
into, so two plans that differ in one probability agree on all else; families of views number their views consecutively.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int

from coterie.data.augmentation.counter_rng import uniform
from coterie.data.augmentation.crops import Crops

TRIES = 10  # as torchvision
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the entries of ``ViewParameters.order``

Box = tuple[int, int, int, int]  # top, left, height, width

_FIRST_TRY = 16
_BLOCKS = np.array([*range(4), *range(_FIRST_TRY, _FIRST_TRY + TRIES)], dtype=np.uint64)
_ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)


@dataclass(frozen=True)
class ViewParameters:
    """The parameters of every view v of every image b.

    Attributes:
        sides: width and height of each try at a box, as shares of the square root of the image's area.
        corners: top and left of each try, in [0, 1): which of the places where the box fits.
        ratios: least and greatest width / height, for the case that no try fits.
        flip: mirror, left to right.
        vertical_flip: mirror, upside down.
        quarter_turns: how many, counter-clockwise.
        jitter: whether the next five are applied.
        order: the order of BRIGHTNESS, CONTRAST, SATURATION and HUE.
        brightness: factor.
        contrast: factor.
        saturation: factor.
        hue: turn of the color circle; 0.5 is half way round.
        grayscale: whether the view turns gray.
        blur: standard deviation in pixels; 0 = none.
        solarize: whether the values from 128 up are inverted.
    """

    sides: Float[np.ndarray, "b v t 2"]
    corners: Float[np.ndarray, "b v t 2"]
    ratios: Float[np.ndarray, "v 2"]
    flip: Bool[np.ndarray, "b v"]
    vertical_flip: Bool[np.ndarray, "b v"]
    quarter_turns: Int[np.ndarray, "b v"]
    jitter: Bool[np.ndarray, "b v"]
    order: Int[np.ndarray, "b v 4"]
    brightness: Float[np.ndarray, "b v"]
    contrast: Float[np.ndarray, "b v"]
    saturation: Float[np.ndarray, "b v"]
    hue: Float[np.ndarray, "b v"]
    grayscale: Bool[np.ndarray, "b v"]
    blur: Float[np.ndarray, "b v"]
    solarize: Bool[np.ndarray, "b v"]

    def boxes(self, row: int, height: int, width: int, views: Sequence[int] | None = None) -> list[Box]:
        """The crops of one image of this size, a box (top, left, height, width) for each view, or for these.

        A box has the drawn share of the area and the drawn ratio; the first of ten tries that fits into the image is
        taken, and if none does, the largest box in its middle whose ratio is allowed. Distributed as torchvision's
        ``RandomResizedCrop``.
        """
        sides, corners, ratios = self.sides[row].tolist(), self.corners[row].tolist(), self.ratios.tolist()
        wanted = range(len(ratios)) if views is None else views
        return [_box(height, width, sides[view], corners[view], ratios[view]) for view in wanted]


def _box(height: int, width: int, sides: list[list[float]], corners: list[list[float]], ratio: list[float]) -> Box:
    root = math.sqrt(height * width)
    for (wide, high), (top, left) in zip(sides, corners, strict=True):
        box_width, box_height = round(wide * root), round(high * root)
        if 0 < box_width <= width and 0 < box_height <= height:
            return int(top * (height - box_height + 1)), int(left * (width - box_width + 1)), box_height, box_width
    box_width = max(1, min(width, round(height * ratio[1])))
    box_height = max(1, min(height, round(width / ratio[0])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def sample_parameters(crops: Sequence[Crops], seed: int, epoch: int, indices: Int[np.ndarray, " b"]) -> ViewParameters:
    """Draw the parameters of all views of some images.

    Args:
        crops: the groups of views, in order.
        seed: of the run, below 2**64.
        epoch: from 0; -1 is the pass that fills a memory before the first.
        indices: the images' positions in their source.
    """
    groups = [group for group in crops for _ in range(group.count)]

    def setting(name: str) -> Float[np.ndarray, " v"]:
        return np.array([getattr(group.augmentation, name) for group in groups], dtype=np.float64)

    def factor(number: Float[np.ndarray, "b v"], name: str) -> Float[np.ndarray, "b v"]:
        return _between(number, np.maximum(0, 1 - setting(name)), 1 + setting(name))

    numbers = _uniforms(seed, epoch, indices, len(groups))
    (
        (flip, vertical_flip, turn, turns),
        (jitter, order, brightness, contrast),
        (saturation, hue, grayscale, blur),
        (radius, solarize, _, _),
    ) = numbers[:, :, :, :4].transpose(3, 0, 1, 2)
    tries = numbers[:, :, :, 4:]
    least_radius, greatest_radius = np.array([group.augmentation.blur_radius for group in groups]).T
    return ViewParameters(
        sides=_sides(tries[0], tries[1], groups),
        corners=np.stack([tries[2], tries[3]], axis=-1),
        ratios=np.array([group.ratio for group in groups], dtype=np.float64),
        flip=flip < setting("flip"),
        vertical_flip=vertical_flip < setting("vertical_flip"),
        quarter_turns=np.where(turn < setting("rotation"), 1 + np.floor(3 * turns), 0).astype(np.int8),
        jitter=jitter < setting("jitter"),
        order=_ORDERS[np.floor(len(_ORDERS) * order).astype(np.int8)],
        brightness=factor(brightness, "brightness"),
        contrast=factor(contrast, "contrast"),
        saturation=factor(saturation, "saturation"),
        hue=_between(hue, -setting("hue"), setting("hue")),
        grayscale=grayscale < setting("grayscale"),
        blur=np.where(blur < setting("blur"), _between(radius, least_radius, greatest_radius), 0.0),
        solarize=solarize < setting("solarize"),
    )


def _uniforms(seed: int, epoch: int, indices: Int[np.ndarray, " b"], views: int) -> Float[np.ndarray, "4 b v n"]:
    counter = np.zeros((4, len(indices), views, len(_BLOCKS)), dtype=np.uint64)
    counter[0] = _BLOCKS
    counter[1] = np.arange(views, dtype=np.uint64)[:, None]
    counter[2] = np.asarray(indices).astype(np.uint64)[:, None, None]
    return uniform(counter, (seed, epoch))


def _between(
    number: Float[np.ndarray, "b v"], low: Float[np.ndarray, " v"], high: Float[np.ndarray, " v"]
) -> Float[np.ndarray, "b v"]:
    drawn: Float[np.ndarray, "b v"] = low + number * (high - low)
    return drawn


def _sides(
    area: Float[np.ndarray, "b v t"], ratio: Float[np.ndarray, "b v t"], groups: Sequence[Crops]
) -> Float[np.ndarray, "b v t 2"]:
    """Width and height for an image of area 1: the area uniform in the scale, the ratio log-uniform in its range."""
    least, greatest = np.array([group.scale for group in groups]).T[:, :, None]
    low, high = np.log([group.ratio for group in groups]).T[:, :, None]
    areas = least + area * (greatest - least)
    ratios = np.exp(low + ratio * (high - low))
    sides: Float[np.ndarray, "b v t 2"] = np.sqrt(np.stack([areas * ratios, areas / ratios], axis=-1))
    return sides
