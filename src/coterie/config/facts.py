"""What is measured on a source of images before a run is planned."""

from dataclasses import dataclass

from coterie.data.sources.source import ImageSource
from coterie.data.statistics import measure

SMALL_SIDE = 96
"""Images of up to this median short side, in pixels, get the small-image recipe."""


@dataclass(frozen=True)
class Facts:
    """What is known of the images of a run.

    Attributes:
        images: how many there are.
        side: median of the short side, in pixels.
        channels: of an image.
        bits: 8 or 16.
        mean: of each channel, in 0 to 1.
        std: of each channel, in 0 to 1.
    """

    images: int
    side: int
    channels: int = 3
    bits: int = 8
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    @property
    def small(self) -> bool:
        """Whether the small-image recipe applies."""
        return self.side <= SMALL_SIDE

    @property
    def color(self) -> bool:
        """Whether color augmentation makes sense: 8-bit RGB."""
        return self.channels == 3 and self.bits == 8


def measure_facts(source: ImageSource, channels: int | None) -> Facts:
    """Measure a sample of the images; ``channels`` overrides how many they seem to have."""
    measured = measure(source, channels)
    return Facts(
        images=len(source),
        side=min(measured.median_size),
        channels=measured.channels,
        bits=measured.bits,
        mean=measured.mean,
        std=measured.std,
    )
