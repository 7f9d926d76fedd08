"""Statistics of a data set, measured on a random sample: mean, standard deviation and size of its images."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.pixels import LARGEST_VALUE, PixelArray, Stored, ValueRange
from coterie.data.sources.source import ImageSource, random_positions, sample_indices, shard_layout
from coterie.errors import BadImage, NoImages
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

_VALUES_PER_IMAGE = 2**14  # about this many of an image are used to measure the range of its values, likewise
_PIXELS_PER_IMAGE = 2**16  # about this many pixels of an image are used, on an even grid
_CHANNELS_SAMPLE = 100  # images whose channels are counted
_REMOTE_LIMIT, _REMOTE_CHANNELS_SAMPLE = 160, 40  # of a remote source: too few per shard to make copying it worthwhile

RANGE_PERCENTILES = 0.5, 99.5
"""What becomes black and white of values whose range is measured."""


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
    indices, channels = _sample(source, channels, limit)
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


def measure_range(
    source: ImageSource, channels: int | None = None, limit: int = 1000, logger: Logger | None = None
) -> tuple[ValueRange, int]:
    """Measure the range of the values of images whose type has none: floating-point, signed and 32-bit values.

    Args:
        source: The images.
        channels: As of :func:`measure`.
        limit: As of :func:`measure`, of the same sample.
        logger: Receives progress.

    Returns:
        The ``RANGE_PERCENTILES`` of all values together, to 4 digits of their difference, and the number of images with such
        values. What is not finite, or beyond 1e30 (a usual mark of missing data), does not count.

    Raises:
        NoImages: No image of the sample has such values, or all their values are the same.
    """
    indices, channels = _sample(source, channels, limit)
    found: list[Float64[np.ndarray, " _"]] = []

    def note(stored: Stored) -> ValueRange:
        step = max(1, round((stored.size / _VALUES_PER_IMAGE) ** 0.5))
        values = stored[::step, ::step].astype(np.float64).ravel()
        found.append(values[np.abs(values) < LARGEST_VALUE])
        return 0.0, 1.0

    reason = ""
    for index in (logger or NullLogger()).progress(indices, len(indices), "measuring the range of the values"):
        check_interrupted()
        try:
            decode(source[index], channels, value_range=note)
        except BadImage as error:
            reason = reason or f"; the first that cannot be decoded: {source.name(index)}: {error}"
    values = np.concatenate(found) if found else np.empty(0)
    if not len(values):
        raise NoImages(
            f"views.range=auto: none of {len(indices)} images has floating-point, signed or 32-bit values: leave it out{reason}"
        )
    low, high = np.percentile(values, RANGE_PERCENTILES).tolist()
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        raise NoImages(f"views.range=auto: all values of {len(found)} images are {low:g}")
    digits = 4 - math.floor(math.log10(high - low))
    return (round(low, digits), round(high, digits)), len(found)


def _sample(source: ImageSource, channels: int | None, limit: int) -> tuple[list[int], int]:
    """The images of the sample, and the number of channels to decode."""
    counted = _CHANNELS_SAMPLE
    if shard_layout(source).remote:
        limit, counted = min(limit, _REMOTE_LIMIT), _REMOTE_CHANNELS_SAMPLE
    indices: list[int] = sample_indices(limit, source).tolist()
    return indices, channels or _common_channels(source, indices, counted)


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
