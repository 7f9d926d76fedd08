"""Which images of a source are stored together: in a shard, or in a table."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class ShardLayout(NamedTuple):
    """How the images of a source are stored.

    Attributes:
        starts: ``[m + 1]``, the first image of each of m shards, and the number of images.
        remote: A shard is fetched as a whole from elsewhere, so the next one should be known while this one is used.
        blocks: The first image of each block that can be read without the rest of its shard, such as a row group; None: any
            image can be read by itself.
    """

    starts: Int[np.ndarray, " _"]
    remote: bool
    blocks: Int[np.ndarray, " _"] | None = None

    def overlapping(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The shards that contain images of ``[start, stop)``, each as a range of images."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        return [(int(self.starts[number]), int(self.starts[number + 1])) for number in range(first, last)]
