"""The order in which an epoch sees the images: a pure function of (seed, epoch), the same for any number of processes."""

import numpy as np
from jaxtyping import Int

from coterie.data.sources.blocks import ShardLayout

WHOLE = 2**24
"""Up to so many images an epoch is one permutation of all of them, 128 MiB; above, it goes block by block."""
WINDOW_BLOCKS = 16
"""So many blocks, or more, are mixed with each other."""
WINDOW_IMAGES = 2**16
"""So many images, or more, are mixed with each other, on average over the windows of an epoch; no block has more."""
_ORDER_TAG = 0x6F72646572  # "order": keeps this stream apart from that of the views


def epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " n"]:
    """The order of the images in an epoch (-1: the filling pass): a permutation that depends on nothing but (seed, epoch)."""
    return _generator(seed, epoch, 0).permutation(count)


class BlockShuffleSampler:
    """The order of every epoch, a slice at a time, without ever holding more than a window of it.

    Up to `WHOLE` images of a source that is at hand, an epoch is `epoch_order`. Otherwise it is a block shuffle: the blocks
    are put in a random order, consecutive ones are taken together to a window, and the images of a window are permuted.
    Hence each image comes once, a batch draws from all blocks of a window, and only the blocks of one window (at an edge,
    of two) are in use at any time. Nothing is kept from one slice to the next but what makes the next one cheap: a run goes
    on at any position for the price of one window.

    Attributes:
        count: of images.
        fetched: as of the blocks.
        in_blocks: whether the order goes by blocks.
        windows: how many there are in an epoch.
    """

    def __init__(self, seed: int, blocks: ShardLayout) -> None:
        self.seed, self.count, self.fetched = seed, int(blocks.starts[-1]), blocks.fetched
        self.in_blocks = blocks.fetched or self.count > WHOLE
        self._starts = _cut(np.asarray(blocks.starts, dtype=np.int64))
        pieces = len(self._starts) - 1
        self.windows = max(1, min(pieces // WINDOW_BLOCKS, self.count // WINDOW_IMAGES)) if self.in_blocks else 1
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = (
            None  # the last one asked for: its number, blocks, starts
        )
        self._window: tuple[int, int, np.ndarray] | None = None  # likewise: its epoch, its number, its images

    def indices(self, epoch: int, first: int, last: int) -> Int[np.ndarray, " b"]:
        """The images at the positions ``[first, last)`` of an epoch."""
        parts = []
        while first < last:
            window = self.window_at(epoch, first)
            start = self._starts_of_windows(epoch)[window]
            part = self._images(epoch, window)[first - start : last - start]
            parts.append(part)
            first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def window_at(self, epoch: int, position: int) -> int:
        """The number of the window that this position of an epoch lies in."""
        if not 0 <= position < self.count:
            raise IndexError(f"position {position} of {self.count}")
        return int(np.searchsorted(self._starts_of_windows(epoch), position, side="right")) - 1

    def ranges(self, epoch: int, window: int) -> list[tuple[int, int]]:
        """The runs of images ``[start, stop)`` that a window of an epoch is made of, a block each."""
        if not self.in_blocks:
            return [(0, self.count)]
        pieces = self._blocks(epoch)[self._bound(window) : self._bound(window + 1)]
        return [(int(self._starts[piece]), int(self._starts[piece + 1])) for piece in pieces]

    def _images(self, epoch: int, window: int) -> Int[np.ndarray, " w"]:
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = None  # never two at a time
            if self.in_blocks:
                images = np.concatenate([np.arange(*run, dtype=np.int64) for run in self.ranges(epoch, window)])
                _generator(self.seed, epoch, 1 + window).shuffle(images)
            else:
                images = epoch_order(self.seed, epoch, self.count)
            self._window = epoch, window, images
        return self._window[2]

    def _blocks(self, epoch: int) -> Int[np.ndarray, " m"]:
        """The blocks in the order of an epoch."""
        return self._of_epoch(epoch)[1]

    def _starts_of_windows(self, epoch: int) -> Int[np.ndarray, " v"]:
        return self._of_epoch(epoch)[2]

    def _of_epoch(self, epoch: int) -> tuple[int, np.ndarray, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            if self.in_blocks:
                blocks = epoch_order(self.seed, epoch, len(self._starts) - 1)
                ends = np.cumsum(np.diff(self._starts)[blocks])
                starts = np.array([ends[self._bound(w) - 1] if w else 0 for w in range(self.windows)], dtype=np.int64)
            else:
                blocks, starts = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
            self._epoch = epoch, blocks, starts
        return self._epoch

    def _bound(self, window: int) -> int:
        """How many blocks come before a window: windows share them out as evenly as they can."""
        return window * (len(self._starts) - 1) // self.windows


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    key = np.array([(seed ^ _ORDER_TAG) % 2**64, epoch % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _cut(starts: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    """The same blocks without the empty ones; one of more than `WINDOW_IMAGES` images is cut into even pieces."""
    lengths = np.diff(starts)
    pieces = -(-lengths // WINDOW_IMAGES)
    block = np.repeat(np.arange(len(lengths)), pieces)
    piece = np.arange(len(block)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.append(starts[block] + piece * lengths[block] // pieces[block], starts[-1])
