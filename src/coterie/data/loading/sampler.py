"""The order of images in an epoch: a pure function of (seed, epoch), the same for any number of processes."""

import numpy as np
from jaxtyping import Int

from coterie.data.sources.shard_layout import ShardLayout

MAX_PERMUTED = 2**24
"""Up to this many local images, an epoch is one permutation of all of them, 128 MiB; above, it is a block shuffle."""
WINDOW_BLOCKS = 16
"""Minimum number of blocks that are mixed with each other."""
WINDOW_IMAGES = 2**16
"""Minimum number of images that are mixed with each other, averaged over the windows of an epoch; maximum of a block."""
_ORDER_TAG = 0x6F72646572  # "order": separates this stream from that of the views


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " n"]:
    """A permutation of ``count`` images that depends only on (seed, epoch); -1 is the filling pass."""
    return _generator(seed, epoch, 0).permutation(count)


class BlockShuffleSampler:
    """The order of every epoch, slice by slice, holding no more than one window of it.

    Up to `MAX_PERMUTED` local images, an epoch is `epoch_order`. Otherwise it is a block shuffle: blocks (shards, or parts
    of large ones) are put in random order, consecutive blocks form a window, and the images of a window are permuted. So
    each image appears once, a batch draws from all blocks of a window, and only the blocks of one window (at a boundary,
    two) are in use at any time. The only state is a cache that makes the next slice cheap: resuming at any position
    costs one window.

    Args:
        seed: Seed of the run.
        layout: How the images are stored.

    Attributes:
        count: Number of images.
        remote: Whether shards are fetched from elsewhere.
        in_blocks: Whether the order is a block shuffle.
        windows: Number of windows in an epoch.
    """

    def __init__(self, seed: int, layout: ShardLayout) -> None:
        self.seed, self.count, self.remote = seed, int(layout.starts[-1]), layout.remote
        self.in_blocks = layout.remote or self.count > MAX_PERMUTED
        self._starts = _block_starts(np.asarray(layout.starts, dtype=np.int64))
        blocks = len(self._starts) - 1
        self.windows = max(1, min(blocks // WINDOW_BLOCKS, self.count // WINDOW_IMAGES)) if self.in_blocks else 1
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None  # the last one: number, blocks, window starts
        self._window: tuple[int, int, np.ndarray] | None = None  # the last one: epoch, number, images

    def indices(self, epoch: int, first: int, last: int) -> Int[np.ndarray, " b"]:
        """The images at the positions ``[first, last)`` of an epoch."""
        parts = []
        while first < last:
            window = self.window_at(epoch, first)
            start = self._window_starts(epoch)[window]
            part = self._images(epoch, window)[first - start : last - start]
            parts.append(part)
            first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def window_at(self, epoch: int, position: int) -> int:
        """The number of the window that contains a position of an epoch.

        Raises:
            IndexError: There is no such position.
        """
        if not 0 <= position < self.count:
            raise IndexError(f"position {position} of {self.count}")
        return int(np.searchsorted(self._window_starts(epoch), position, side="right")) - 1

    def ranges(self, epoch: int, window: int) -> list[tuple[int, int]]:
        """The ranges of images ``[start, stop)`` in a window of an epoch, one per block."""
        if not self.in_blocks:
            return [(0, self.count)]
        blocks = self._block_order(epoch)[self._blocks_before(window) : self._blocks_before(window + 1)]
        return [(int(self._starts[block]), int(self._starts[block + 1])) for block in blocks]

    def _images(self, epoch: int, window: int) -> Int[np.ndarray, " w"]:
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = None  # never hold two at a time
            if self.in_blocks:
                images = np.concatenate([np.arange(*each, dtype=np.int64) for each in self.ranges(epoch, window)])
                _generator(self.seed, epoch, 1 + window).shuffle(images)
            else:
                images = epoch_order(self.seed, epoch, self.count)
            self._window = epoch, window, images
        return self._window[2]

    def _block_order(self, epoch: int) -> Int[np.ndarray, " m"]:
        return self._load_epoch(epoch)[1]

    def _window_starts(self, epoch: int) -> Int[np.ndarray, " v"]:
        return self._load_epoch(epoch)[2]

    def _load_epoch(self, epoch: int) -> tuple[int, np.ndarray, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            if self.in_blocks:
                blocks = epoch_order(self.seed, epoch, len(self._starts) - 1)
                ends = np.cumsum(np.diff(self._starts)[blocks])
                starts = np.array(
                    [ends[self._blocks_before(w) - 1] if w else 0 for w in range(self.windows)], dtype=np.int64
                )
            else:
                blocks, starts = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
            self._epoch = epoch, blocks, starts
        return self._epoch

    def _blocks_before(self, window: int) -> int:
        """The number of blocks before a window: windows divide them as evenly as possible."""
        return window * (len(self._starts) - 1) // self.windows


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    key = np.array([(seed ^ _ORDER_TAG) % 2**64, epoch % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _block_starts(starts: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    """The shards without empty ones; a shard of more than `WINDOW_IMAGES` images is split into even blocks."""
    lengths = np.diff(starts)
    blocks = -(-lengths // WINDOW_IMAGES)
    shard = np.repeat(np.arange(len(lengths)), blocks)
    block = np.arange(len(shard)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    return np.append(starts[shard] + block * lengths[shard] // blocks[shard], starts[-1])
