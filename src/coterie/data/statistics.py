"""Statistics of a data set, measured on a random sample: mean, standard deviation and size of its images."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.pixels import PixelArray, ValueRange
from coterie.data.sources.source import ImageSource, random_positions, sample_indices, shard_layout
from coterie.errors import BadImage, NoImages
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

_PIXELS_PER_IMAGE = 2**16  # about this many pixels of an image are used, on an even grid
_CHANNELS_SAMPLE = 100  # images whose channels are counted
_REMOTE_LIMIT, _REMOTE_CHANNELS_SAMPLE = 160, 40  # of a remote source: too few per shard to make copying it worthwhile


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of a sample of images, each with the same weight.

    Attributes:
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel over all pixels; at least one gray level, so that it can be divided by.
        median_size: Median height and median width, in pixels.
        channels: Number of channels of the decoded images.
        bits: 16 if any image has more than 8 bits per value, else 8.
        sampled: Number of images that were decoded.
        bad: Number of images that could not be decoded.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    median_size: tuple[int, int]
    channels: int
    bits: int
    sampled: int
    bad: int


def measure(
    source: ImageSource,
    channels: int | None = None,
    limit: int = 1000,
    logger: Logger | None = None,
    value_range: ValueRange | None = None,
) -> ImageStatistics:
    """Measure the statistics of a random sample, always the same one (see `coterie.data.sources.source.sample_indices`).

    Args:
        source: The images.
        channels: Number of channels to decode. None: 1 if all images of the sample are gray, 3 if they are gray and
            colored, otherwise the most frequent number.
        limit: Maximum number of images to sample; from a remote source, at most 160.
        logger: Receives progress.
        value_range: As of `coterie.data.decoding.decode.decode`.

    Raises:
        NoImages: No image can be decoded.
    """
    counted = _CHANNELS_SAMPLE
    if shard_layout(source).remote:
        limit, counted = min(limit, _REMOTE_LIMIT), _REMOTE_CHANNELS_SAMPLE
    indices: list[int] = sample_indices(limit, source).tolist()
    channels = channels or _common_channels(source, indices, counted)
    moments: list[Float64[np.ndarray, "2 c"]] = []
    sizes: list[tuple[int, int]] = []
    bits, reason = 8, ""
    for index in (logger or NullLogger()).progress(indices, len(indices), "measuring the images"):
        check_interrupted()
        try:
            pixels = decode(source[index], channels, value_range=value_range)
        except BadImage as error:
            reason = reason or f"; the first: {source.name(index)}: {error}"
            continue
        moments.append(_moments(pixels))
        sizes.append((pixels.shape[0], pixels.shape[1]))
        bits = max(bits, 8 * pixels.dtype.itemsize)
    if not moments:
        raise NoImages(f"no image can be decoded (tried {len(indices)}){reason}")
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


def _common_channels(source: ImageSource, indices: list[int], count: int) -> int:
    """The number of channels that suits the images best, from so many of them."""
    counts: Counter[int] = Counter()
    for place in random_positions(count, len(indices)).tolist():
        check_interrupted()
        try:
            counts[count_channels(source[indices[place]])] += 1
        except BadImage:
            continue
    if set(counts) <= {1, 3}:
        return 1 if set(counts) == {1} else 3
    return max(counts, key=lambda number: (counts[number], number))


def _moments(pixels: PixelArray) -> Float64[np.ndarray, "2 c"]:
    """Mean and mean square of each channel, for values in [0, 1]."""
    height, width, channels = pixels.shape
    step = max(1, round((height * width / _PIXELS_PER_IMAGE) ** 0.5))
    values = pixels[::step, ::step].reshape(-1, channels) / np.float64(np.iinfo(pixels.dtype).max)
    return np.stack([values.mean(axis=0), np.square(values).mean(axis=0)])
