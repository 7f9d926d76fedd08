"""Automatic values: what follows from the images, with the reason beside each rule."""

from dataclasses import dataclass

SMALL_SIDE = 96
"""Images of up to this median short side get the small-image recipe."""
SMALL_STEM_SIDE = 64
"""Up to this side a ResNet keeps its resolution in the first layers: a standard stem would leave 2 x 2 pixels of 32."""


@dataclass(frozen=True)
class Facts:
    """What was measured on a source.

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
        """Whether the small-image recipe is meant."""
        return self.side <= SMALL_SIDE

    @property
    def colour(self) -> bool:
        """Whether colour operations make sense: 8-bit RGB."""
        return self.channels == 3 and self.bits == 8


def group_count(images: int) -> int:
    """About a hundred images a group, at most 3,000; at least 100, if that leaves twenty images a group.

    An order of magnitude above the number of classes is the authors' rule (swav#37); the published 3,000 suit a million
    images, and few images cannot fill many groups.
    """
    return max(2, min(100, images // 20), min(3000, round(images / 1000) * 10))


def batch_size(images: int) -> int:
    """256, or the largest power of two that leaves at least eight batches an epoch."""
    size = 256
    while size > 8 and images < 8 * size:
        size //= 2
    return min(size, images)


def epochs(images: int) -> int:
    """Enough for about ten million images seen, between 20 and 400 epochs."""
    return max(20, min(400, round(10_000_000 / images)))


def memory_length(groups: int, batch: int) -> int:
    """Past rows so that a balanced assignment sees about two rows a group; 0 if the batch alone has them."""
    missing = 2 * groups - batch
    return -(-missing // batch) * batch if missing > 0 else 0
