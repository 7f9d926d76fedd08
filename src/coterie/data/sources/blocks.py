"""Which images of a source lie together: shards, or row groups of tables."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class ShardLayout(NamedTuple):
    """How a source lies on its storage.

    Attributes:
        starts: ``[m + 1]``, the first image of each block (a shard, a table), and the number of images behind them.
        fetched: a block comes whole from elsewhere, so that the next should be known while this one is used.
    """

    starts: Int[np.ndarray, " _"]
    fetched: bool

    def of(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The blocks, each as a run of images, that have an image of the run ``[start, stop)``."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        return [(int(self.starts[number]), int(self.starts[number + 1])) for number in range(first, last)]
