"""What a data set looks like: mean, deviation and size, measured on an even sample of it."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from coterie.data.decoding.decode import channels_of, decode
from coterie.data.decoding.pixels import Pixels
from coterie.data.sources.source import ImageSource, blocks, sampled
from coterie.errors import BadImage, NoImages

_LOOKED_AT = 2**16  # about so many pixels of an image are read, on an even grid
_FETCHED = 160  # so many images are read of a source that is fetched: too few of a shard to make it worth a copy


@dataclass(frozen=True)
class ImageStatistics:
    """Figures of a sample of images, each image counting the same.

    Attributes:
        mean: of each channel, of values scaled to 0..1.
        std: standard deviation of each channel over all pixels; at least one gray level, so that one may divide by it.
        median_size: median height and median width.
        channels: of the decoded images.
        bits: 16 if any image has more than 8 bits a value, else 8.
        sampled: how many images were decoded.
        bad: how many could not be.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    median_size: tuple[int, int]
    channels: int
    bits: int
    sampled: int
    bad: int


def measure(source: ImageSource, channels: int | None = None, limit: int = 1000) -> ImageStatistics:
    """Measure a sample; the same one every time (see `coterie.data.sources.source.sampled`).

    Args:
        source: the images.
        channels: how many channels to decode; None finds it: 1 if all images of the sample are gray, 3 if they are gray
            and colored, else the most frequent number.
        limit: the largest number of images to look at; of a source that is fetched from elsewhere no more than 160.

    Raises:
        NoImages: none of them can be decoded.
    """
    limit = min(limit, _FETCHED) if blocks(source).fetched else limit
    indices: list[int] = sampled(limit, source).tolist()
    channels = channels or _channels(source, indices)
    moments: list[Float64[np.ndarray, "2 c"]] = []
    sizes: list[tuple[int, int]] = []
    bits, reason = 8, ""
    for index in indices:
        try:
            pixels = decode(source[index], channels)
        except BadImage as error:
            reason = reason or f"; the first: {source.name(index)}: {error}"
            continue
        moments.append(_moments(pixels))
        sizes.append((pixels.shape[0], pixels.shape[1]))
        bits = max(bits, 8 * pixels.dtype.itemsize)
    if not moments:
        raise NoImages(f"no image can be decoded ({len(indices)} were looked at){reason}")
    mean, square = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0.0)).clip(min=1 / (2**bits - 1))
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    return ImageStatistics(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        median_size=(height, width),
        channels=channels,
        bits=bits,
        sampled=len(sizes),
        bad=len(indices) - len(sizes),
    )


def _channels(source: ImageSource, indices: list[int]) -> int:
    """The number of channels that suits the images best."""
    found: Counter[int] = Counter()
    for index in indices[:: -(-len(indices) // 100) or 1]:
        try:
            found[channels_of(source[index])] += 1
        except BadImage:
            continue
    if set(found) <= {1, 3}:
        return 1 if set(found) == {1} else 3
    return max(found, key=lambda number: (found[number], number))


def _moments(pixels: Pixels) -> Float64[np.ndarray, "2 c"]:
    """The mean and the mean square of each channel, of values scaled to 0..1."""
    height, width, channels = pixels.shape
    step = max(1, round((height * width / _LOOKED_AT) ** 0.5))
    values = pixels[::step, ::step].reshape(-1, channels) / np.float64(np.iinfo(pixels.dtype).max)
    return np.stack([values.mean(axis=0), np.square(values).mean(axis=0)])
