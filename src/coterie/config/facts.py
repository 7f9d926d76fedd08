"""Facts about a source of images, measured before a run is planned."""

from dataclasses import dataclass

from coterie.data.decoding.pixels import ValueRange
from coterie.data.sources.source import ImageSource
from coterie.data.statistics import RANGE_PERCENTILES, measure, measure_range
from coterie.logger import Logger

SMALL_SIDE = 96
"""Largest median short side, in pixels, for which the small-image recipe applies."""


@dataclass(frozen=True)
class Facts:
    """Facts about the images of a run.

    Attributes:
        images: number of images.
        side: median of the short side, in pixels.
        channels: channels per image.
        bits: bits per channel, 8 or 16.
        mean: mean of each channel, on a scale of 0 to 1.
        std: standard deviation of each channel, on the same scale.
        reduced: whether larger images are seen at ``side``, by the recipe for small images.
    """

    images: int
    side: int
    channels: int = 3
    bits: int = 8
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    reduced: bool = False

    @property
    def small(self) -> bool:
        """Whether the small-image recipe applies."""
        return self.reduced or self.side <= SMALL_SIDE

    @property
    def color(self) -> bool:
        """Whether color augmentation makes sense: 8-bit RGB."""
        return self.channels == 3 and self.bits == 8


def choose_range(source: ImageSource, channels: int | None, logger: Logger | None = None) -> tuple[ValueRange, str]:
    """Measure ``views.range`` on a sample of the images.

    Args:
        source: the images.
        channels: their number of channels; None: as measured.
        logger: receives progress.

    Returns:
        The range, and how it was found.

    Raises:
        NoImages: no image has values whose range is not known.
    """
    found, images = measure_range(source, channels, logger=logger)
    low, high = RANGE_PERCENTILES
    noun = "image" if images == 1 else "images"
    return found, f"percentiles {low:g} and {high:g} of the values of {images:,} {noun}"


def measure_facts(
    source: ImageSource, channels: int | None, logger: Logger | None = None, value_range: ValueRange | None = None
) -> Facts:
    """Measure a sample of the images.

    Args:
        source: the images.
        channels: their number of channels; None: as measured.
        logger: receives progress.
        value_range: the setting ``views.range``.
    """
    measured = measure(source, channels, logger=logger, value_range=value_range)
    return Facts(
        images=len(source),
        side=min(measured.median_size),
        channels=measured.channels,
        bits=measured.bits,
        mean=measured.mean,
        std=measured.std,
    )
