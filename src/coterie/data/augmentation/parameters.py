"""Random parameters of views: where each crop lies and what is done to it. Nothing here touches a pixel.

Every number is a pure function of (seed, epoch, image index, view number) and of nothing else: not of the batch an
image comes in, the worker that makes it, or what was sampled before. The key of the cipher (``philox``) is
``(seed, epoch)``; the pass that fills the memory before the first epoch is epoch -1. The counter is
``(block, view, image index, 0)``, and each block gives four uniform numbers:

| block | first | second | third | fourth |
|---|---|---|---|---|
| 0 | flip | vertical flip | rotation: whether | rotation: which |
| 1 | jitter: whether | jitter: order | brightness | contrast |
| 2 | saturation | hue | grayscale | blur: whether |
| 3 | blur: radius | solarize | (unused) | (unused) |
| 4 to 15 | (unused) | | | |
| 16 to 25 | area | log ratio | top | left |

Blocks 16 to 25 are ten attempts to find a box that fits into the image. A setting affects only what its own number is
turned into, so two plans that differ in one probability agree in everything else. Families of views are numbered
consecutively.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int

from coterie.data.augmentation.counter_rng import uniform
from coterie.data.augmentation.multi_crop import Crops

CROP_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the values of ``ViewParameters.order``

CropBox = tuple[int, int, int, int]  # top, left, height, width

_FIRST_ATTEMPT_BLOCK = 16
_BLOCKS = np.array([*range(4), *range(_FIRST_ATTEMPT_BLOCK, _FIRST_ATTEMPT_BLOCK + CROP_ATTEMPTS)], dtype=np.uint64)
_ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of each view v of each image b.

    Attributes:
        sides: Width and height of each attempted box, divided by the square root of the image area.
        corners: Top and left of each attempted box, in [0, 1): relative to all positions where the box fits.
        ratios: Smallest and largest width / height, used when no attempt fits.
        flip: Flip horizontally.
        vertical_flip: Flip vertically.
        quarter_turns: Number of counterclockwise rotations by 90 degrees.
        jitter: Apply the next five.
        order: Order of BRIGHTNESS, CONTRAST, SATURATION and HUE.
        brightness: Brightness factor.
        contrast: Contrast factor.
        saturation: Saturation factor.
        hue: Hue shift; 0.5 is half the color circle.
        grayscale: Convert to gray.
        blur: Standard deviation of the blur in pixels; 0 = none.
        solarize: Invert the values of 128 and above.
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

    def boxes(self, row: int, height: int, width: int, views: Sequence[int] | None = None) -> list[CropBox]:
        """Crop boxes of one image, distributed like those of torchvision's ``RandomResizedCrop``.

        A box has the sampled area and ratio. The first of ten attempts that fits into the image is used; if none fits,
        the largest centered box with an allowed ratio.

        Args:
            row: Row of the image in these parameters.
            height: Height of the image, in pixels.
            width: Width of the image, in pixels.
            views: Numbers of the views; None = all.

        Returns:
            A box (top, left, height, width) for each view.
        """
        sides, corners, ratios = self.sides[row].tolist(), self.corners[row].tolist(), self.ratios.tolist()
        numbers = range(len(ratios)) if views is None else views
        return [_box(height, width, sides[view], corners[view], ratios[view]) for view in numbers]


def _box(height: int, width: int, sides: list[list[float]], corners: list[list[float]], ratio: list[float]) -> CropBox:
    root = math.sqrt(height * width)
    for (relative_width, relative_height), (top, left) in zip(sides, corners, strict=True):
        box_width, box_height = round(relative_width * root), round(relative_height * root)
        if 0 < box_width <= width and 0 < box_height <= height:
            return int(top * (height - box_height + 1)), int(left * (width - box_width + 1)), box_height, box_width
    box_width = max(1, min(width, round(height * ratio[1])))
    box_height = max(1, min(height, round(width / ratio[0])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def sample_parameters(crops: Sequence[Crops], seed: int, epoch: int, indices: Int[np.ndarray, " b"]) -> ViewParameters:
    """Sample the parameters of all views of some images.

    Args:
        crops: The groups of views, in order.
        seed: Seed of the run, below 2**64.
        epoch: Epoch, from 0; -1 is the pass that fills the memory before the first epoch.
        indices: Positions of the images in their source.
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
    attempts = numbers[:, :, :, 4:]
    smallest_radius, largest_radius = np.array([group.augmentation.blur_radius for group in groups]).T
    return ViewParameters(
        sides=_sides(attempts[0], attempts[1], groups),
        corners=np.stack([attempts[2], attempts[3]], axis=-1),
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
        blur=np.where(blur < setting("blur"), _between(radius, smallest_radius, largest_radius), 0.0),
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
    scaled: Float[np.ndarray, "b v"] = low + number * (high - low)
    return scaled


def _sides(
    area: Float[np.ndarray, "b v t"], ratio: Float[np.ndarray, "b v t"], groups: Sequence[Crops]
) -> Float[np.ndarray, "b v t 2"]:
    """Width and height in an image of area 1: the area is uniform in the scale, the ratio log-uniform in its range."""
    smallest, largest = np.array([group.scale for group in groups]).T[:, :, None]
    low, high = np.log([group.ratio for group in groups]).T[:, :, None]
    areas = smallest + area * (largest - smallest)
    ratios = np.exp(low + ratio * (high - low))
    sides: Float[np.ndarray, "b v t 2"] = np.sqrt(np.stack([areas * ratios, areas / ratios], axis=-1))
    return sides
