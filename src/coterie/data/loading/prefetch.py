"""Prefetching: a process that fetches remote images before they are read."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from coterie.data.loading.sampler import BlockShuffleSampler
from coterie.data.sources.source import Prefetchable
from coterie.errors import UserError
from coterie.signals import SIGNALS

_THREADS = 4  # ranges of images that are fetched at the same time

ImageRange = tuple[int, int]
"""Images ``[start, stop)``."""


class PrefetchProcess:
    """A process that fetches requested ranges of images.

    It is a separate process because threads would compete with the run for the interpreter, and might be forked at a bad
    moment. Images that cannot be fetched are left to whoever reads them, who reports what is wrong. The process ends with
    the one that started it, however that ends.

    Args:
        source: The images.
    """

    def __init__(self, source: Prefetchable) -> None:
        context = get_context("fork")
        receiver, self._sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_run, args=(source, receiver, self._sender), daemon=True)
        self.process.start()
        receiver.close()

    def request(self, ranges: Sequence[ImageRange]) -> None:
        """Request ranges of images, in order; replaces earlier requests that were not begun."""
        with suppress(OSError):  # the process was killed: the run continues without it
            self._sender.send(list(ranges))

    def close(self) -> None:
        """End the process."""
        self._sender.close()
        self.process.terminate()
        self.process.join()


class WindowPrefetcher:
    """Fetches the window of an epoch that is in use, and then the next one, during training.

    Args:
        source: The images.
        sampler: Their order.
    """

    def __init__(self, source: Prefetchable, sampler: BlockShuffleSampler) -> None:
        self.sampler, self.prefetching = sampler, PrefetchProcess(source)
        self._requested: tuple[int, int] | None = None

    def move_to(self, epoch: int, position: int) -> None:
        """Fetch what is needed at this position of an epoch."""
        window = self.sampler.window_at(epoch, position)
        if self._requested == (epoch, window):
            return
        self._requested = epoch, window
        following = (epoch, window + 1) if window + 1 < self.sampler.windows else (epoch + 1, 0)
        self.prefetching.request([*self.sampler.ranges(epoch, window), *self.sampler.ranges(*following)])

    def close(self) -> None:
        """End the process."""
        self.prefetching.close()


def _run(source: Prefetchable, receiver: Connection, sender: Connection) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are for the run, which saves first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sender.close()  # or the end of the other process would go unnoticed

    def fetch(images: ImageRange) -> None:
        with suppress(UserError):
            source.prefetch(*images)

    with ThreadPoolExecutor(_THREADS) as pool:
        while True:
            try:
                ranges = receiver.recv()
                while receiver.poll():  # the run has moved on
                    ranges = receiver.recv()
            except EOFError:
                return
            list(pool.map(fetch, ranges))
