"""A built-in dataset of real images: patches of the sample photographs that scikit-image and scikit-learn ship.

It needs no network and takes seconds to make. Each photograph is divided into vertical bands that alternate between the
training and the test split, so the two never share a pixel. The photograph is the class. Patches are gray, of random
size, brightness and contrast, so that only texture and shape distinguish the classes.

scikit-image is in the extra ``demo``; only its folder of pictures is read, neither package is imported.
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

PhotoBox = tuple[int, int, int, int]  # left, upper, right, lower; as Pillow's crop takes it

# class: (package, folder, file). Drawings, silhouettes and nearly empty pictures in the same folders are left out.
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

HOW_TO_INSTALL = {
    "skimage": "scikit-image, which is not installed: pip install 'coterie[demo]'",
    "sklearn": "scikit-learn, which is not installed: pip install scikit-learn",
}

BANDS = 4
MIN_SIDE, MAX_SIDE = 1.5, 5.0  # side of a square before resizing, in multiples of the patch size
MIN_STD = 12.0  # in gray levels; a flatter square (empty sky, black space) could be from any photograph
ATTEMPTS = 20  # squares to sample before a flat one is accepted


@dataclass(frozen=True)
class PhotoPatches:
    """Patches of photographs, and where in its photograph each was cut.

    Attributes:
        images: Gray patches, ``[n, size, size, 1]``.
        labels: Class of each patch, ``[n]``; patches cycle through the classes, which keeps them balanced.
        classes: Names of the photographs.
        names: Names of the patches, such as ``train-00017-moon``.
        boxes: (left, upper, right, lower) of each patch in pixels of its photograph; right and lower are exclusive.
    """

    images: UInt8[np.ndarray, "n size size 1"]
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    boxes: Int[np.ndarray, "n 4"]


def photo_patches(split: str, count: int, size: int = 32, seed: int = 0) -> PhotoPatches:
    """Cut the training or the test patches from the built-in photographs.

    Patch i is a pure function of (seed, split, size, i): a larger dataset starts with the patches of a smaller one.

    Args:
        split: ``train`` or ``test``: which of two disjoint regions of each photograph to cut from.
        count: Number of patches.
        size: Height and width of a patch in pixels.
        seed: Seed for the squares, brightness and contrast; the regions do not depend on it.

    Raises:
        UserError: A photograph is not installed, or a patch does not fit into its region.
    """
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r} of the built-in photographs: choose train or test")
    if count < 1 or size < 1:
        raise UserError("the number of patches and their size must be at least 1")
    photographs = [load_photograph(name) for name in PHOTOGRAPHS]
    classes = tuple(PHOTOGRAPHS)
    labels = np.arange(count) % len(classes)
    images = np.empty((count, size, size, 1), np.uint8)
    boxes = np.empty((count, 4), np.int64)
    for index, label in enumerate(labels):
        # Philox takes a key of two 64-bit words: the first holds the seed and the split, the second the patch.
        generator = np.random.Generator(np.random.Philox(key=[(2 * seed + (split == "test")) % 2**64, index]))
        images[index, :, :, 0], boxes[index] = _patch(photographs[label], split, size, generator)
    names = tuple(f"{split}-{index:05d}-{classes[label]}" for index, label in enumerate(labels))
    return PhotoPatches(images, labels, classes, names, boxes)


def load_photograph(name: str) -> Image.Image:
    """Open one of the photographs in gray, from the folder of the package that ships it.

    Raises:
        UserError: The package is not installed, or the installed version does not ship the photograph.
    """
    package, folder, file = PHOTOGRAPHS[name]
    found = find_spec(package)  # locates the package without importing it, which would take a second
    if found is None or found.origin is None:
        raise UserError(f"the built-in photographs come with {HOW_TO_INSTALL[package]}")
    path = Path(found.origin).parent / folder / file
    if not path.is_file():
        raise UserError(f"the installed {package} has no {folder}/{file}; reinstall it or install another version")
    with Image.open(path) as image:
        return image.convert("L")


def regions(width: int, height: int, split: str) -> list[PhotoBox]:
    """Return the bands of a photograph that belong to a split; the two splits together cover the photograph."""
    edges = [round(band * width / BANDS) for band in range(BANDS + 1)]
    first = 0 if split == "train" else 1
    return [(edges[band], 0, edges[band + 1], height) for band in range(first, BANDS, 2)]


def _patch(
    photograph: Image.Image, split: str, size: int, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], PhotoBox]:
    """Cut one patch ``[size, size]``; return it with its box."""
    bands = regions(*photograph.size, split)
    for _ in range(ATTEMPTS):
        box = _square(bands[generator.integers(len(bands))], size, generator)
        # Crop before resizing, so that resampling cannot reach across the border into the other split.
        patch = np.asarray(photograph.crop(box).resize((size, size), Image.Resampling.LANCZOS), np.float32)
        if patch.std() >= MIN_STD:
            break
    contrast, brightness = generator.uniform(0.6, 1.2), generator.uniform(-40, 40)
    changed = (patch - patch.mean()) * contrast + patch.mean() + brightness
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8), box


def _square(band: PhotoBox, size: int, generator: np.random.Generator) -> PhotoBox:
    """Sample a square inside a band, its side log-uniformly and its position uniformly."""
    left, upper, right, lower = band
    width, height = right - left, lower - upper
    smallest, largest = round(size * MIN_SIDE), min(width, height, round(size * MAX_SIDE))
    if largest < smallest:
        raise UserError(f"patches of {size} pixels do not fit into a band of {width} x {height}; choose a smaller size")
    side = round(math.exp(generator.uniform(math.log(smallest), math.log(largest))))
    x = left + int(generator.integers(width - side + 1))
    y = upper + int(generator.integers(height - side + 1))
    return x, y, x + side, y + side
