"""Colors of classes: those of Pascal VOC's masks, which most tools draw."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from coterie.segmentation.classes import VALUES

_BACKGROUNDS = ("background", "bg", "0")
_OPAQUE = 0.55
"""Of the color of a class over an image."""


def class_colors(names: Sequence[str]) -> UInt8[np.ndarray, "k 3"]:
    """The color of each class; black for a first one that is the background."""
    first = 0 if names[0].lower() in _BACKGROUNDS else 1
    return np.array([_voc_color(place + first) for place in range(len(names))], dtype=np.uint8)


def palette(colors: UInt8[np.ndarray, "k 3"], values: Sequence[int]) -> list[int]:
    """The palette of a PNG file whose values are those of classes: red, green and blue of each of 256."""
    table = np.zeros((VALUES, 3), dtype=np.uint8)
    table[list(values)] = colors
    return [int(each) for each in table.reshape(-1)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], labels: UInt8[np.ndarray, "h w"], colors: UInt8[np.ndarray, "k 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """An image with the color of the class of each pixel over it; what is black stays as it is."""
    shown = colors[labels].astype(np.float32)
    share = np.where(shown.any(axis=2, keepdims=True), np.float32(_OPAQUE), np.float32(0))
    drawn: np.ndarray = np.rint(share * shown + (1 - share) * image).astype(np.uint8)
    return drawn


def _voc_color(number: int) -> tuple[int, int, int]:
    """The bits of a number, three at a time, from the highest of red, green and blue on."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (number >> channel & 1) << (7 - place)
        number >>= 3
    return color[0], color[1], color[2]
