"""A built-in set of real images: patches of the photographs that come inside scikit-image and scikit-learn.

It needs no network and is made in seconds. Each photograph is cut into vertical bands that belong in turn to the
training and to the test patches, so that the two never share a pixel. The photograph is the class. The patches are
gray, of random size, brightness and contrast: what tells the photographs apart is texture and shape, and nothing else.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image

from coterie.errors import UserError

Box = tuple[int, int, int, int]

# class: (package, folder, file). Drawings, silhouettes and nearly empty pictures of the same folders are left out.
PHOTOGRAPHS: dict[str, tuple[str, str, str]] = {
    "astronaut": ("skimage", "data", "astronaut.png"),
    "brick": ("skimage", "data", "brick.png"),
    "cameraman": ("skimage", "data", "camera.png"),
    "cat": ("skimage", "data", "chelsea.png"),
    "coffee": ("skimage", "data", "coffee.png"),
    "coins": ("skimage", "data", "coins.png"),
    "flower": ("sklearn", "datasets/images", "flower.jpg"),
    "galaxies": ("skimage", "data", "hubble_deep_field.jpg"),
    "grass": ("skimage", "data", "grass.png"),
    "gravel": ("skimage", "data", "gravel.png"),
    "handwriting": ("skimage", "data", "text.png"),
    "moon": ("skimage", "data", "moon.png"),
    "motorcycle": ("skimage", "data", "motorcycle_left.png"),
    "page": ("skimage", "data", "page.png"),
    "pagoda": ("sklearn", "datasets/images", "china.jpg"),
    "retina": ("skimage", "data", "retina.jpg"),
    "rocket": ("skimage", "data", "rocket.jpg"),
    "tissue": ("skimage", "data", "ihc.png"),
}

BANDS = 4
SMALLEST, LARGEST = 1.5, 5.0  # the squares that are cut, in units of the patch
LEAST_DEVIATION = 12.0  # gray levels; a flatter square (empty sky, black space) says nothing about its photograph
TRIES = 20


@dataclass(frozen=True)
class PhotoPatches:
    """Patches of photographs with the place that each came from.

    Attributes:
        images: gray patches, ``[n, size, size, 1]``.
        labels: the class of each patch, ``[n]``; classes follow each other in turn, so that they are balanced.
        classes: the name of each photograph.
        names: the name of each patch, such as ``train-00017-moon``.
        boxes: (left, upper, right, lower) in pixels of its photograph; right and lower are outside.
    """

    images: UInt8[np.ndarray, "n size size 1"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    boxes: Int[np.ndarray, "n 4"]


def photo_patches(split: str, count: int, size: int = 32, seed: int = 0) -> PhotoPatches:
    """Make the training or the test patches of the built-in photographs.

    Patch i is a pure function of (seed, split, size, i): a longer set begins with the shorter one.

    Args:
        split: ``train`` or ``test``, which of the two disjoint regions of each photograph the patches come from.
        count: number of patches.
        size: height and width of a patch in pixels.
        seed: another seed cuts other squares out of the same regions.

    Raises:
        UserError: a photograph is missing from the installed packages, or the patch is larger than its region.
    """
    if split not in ("train", "test"):
        raise UserError(f"the built-in photographs have the splits train and test, not {split!r}")
    if count < 1 or size < 1:
        raise UserError("the number of patches and their size must be at least 1")
    photographs = [load_photograph(name) for name in PHOTOGRAPHS]
    classes = tuple(PHOTOGRAPHS)
    labels = np.arange(count) % len(classes)
    images = np.empty((count, size, size, 1), np.uint8)
    boxes = np.empty((count, 4), np.int64)
    for index, label in enumerate(labels):
        # Philox's key is two words of 64 bits: the first holds seed and split, the second the patch.
        generator = np.random.Generator(np.random.Philox(key=[(2 * seed + (split == "test")) % 2**64, index]))
        images[index, :, :, 0], boxes[index] = _patch(photographs[label], split, size, generator)
    names = tuple(f"{split}-{index:05d}-{classes[label]}" for index, label in enumerate(labels))
    return PhotoPatches(images, labels, classes, names, boxes)


def load_photograph(name: str) -> Image.Image:
    """Open one of the photographs in gray, from the folder of the package that carries it.

    Raises:
        UserError: the installed version of the package does not carry it.
    """
    package, folder, file = PHOTOGRAPHS[name]
    found = find_spec(package)  # only finds: importing scikit-learn would cost a second
    if found is None or found.origin is None:
        raise UserError(f"the built-in photographs need the package {package}; install it with pip")
    path = Path(found.origin).parent / folder / file
    if not path.is_file():
        raise UserError(f"the installed {package} does not carry {folder}/{file}; install it again or another version")
    with Image.open(path) as image:
        return image.convert("L")


def regions(width: int, height: int, split: str) -> list[Box]:
    """The bands of a photograph that belong to one split; those of the other split are all the rest of it."""
    edges = [round(band * width / BANDS) for band in range(BANDS + 1)]
    first = 0 if split == "train" else 1
    return [(edges[band], 0, edges[band + 1], height) for band in range(first, BANDS, 2)]


def _patch(
    photograph: Image.Image, split: str, size: int, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], Box]:
    """One patch ``[size, size]`` and the box that it was cut from."""
    bands = regions(*photograph.size, split)
    for _ in range(TRIES):
        box = _square(bands[generator.integers(len(bands))], size, generator)
        # Cropped before it is resized: resampling must not reach over the border into the other split.
        patch = np.asarray(photograph.crop(box).resize((size, size), Image.Resampling.LANCZOS), np.float32)
        if patch.std() >= LEAST_DEVIATION:
            break
    contrast, brightness = generator.uniform(0.6, 1.2), generator.uniform(-40, 40)
    changed = (patch - patch.mean()) * contrast + patch.mean() + brightness
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8), box


def _square(band: Box, size: int, generator: np.random.Generator) -> Box:
    """A square of random size and place inside a band; its side is drawn evenly on a logarithmic scale."""
    left, upper, right, lower = band
    width, height = right - left, lower - upper
    smallest, largest = round(size * SMALLEST), min(width, height, round(size * LARGEST))
    if largest < smallest:
        raise UserError(f"patches of {size} pixels do not fit into a band of {width} x {height}; take a smaller size")
    side = round(math.exp(generator.uniform(math.log(smallest), math.log(largest))))
    x = left + int(generator.integers(width - side + 1))
    y = upper + int(generator.integers(height - side + 1))
    return x, y, x + side, y + side
