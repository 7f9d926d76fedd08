"""A process that fetches images of a source before they are asked for."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

from coterie.data.loading.sampler import BlockShuffleSampler
from coterie.data.sources.source import Prefetchable
from coterie.errors import UserError

_AT_ONCE = 4  # runs of images that are fetched at the same time

Run = tuple[int, int]


class PrefetchProcess:
    """Fetches the runs of images that it is told of.

    It has a process of its own: threads here would take turns with the run, and could be forked in the middle of something.
    What cannot be fetched is left to whoever asks for the images: they say what is wrong. The process ends when this one
    does, however that ends.
    """

    def __init__(self, source: Prefetchable) -> None:
        """Start the process."""
        context = get_context("fork")
        asked, self._ask = context.Pipe(duplex=False)
        self.process = context.Process(target=_fetch, args=(source, asked, self._ask), daemon=True)
        self.process.start()
        asked.close()

    def tell(self, runs: Sequence[Run]) -> None:
        """Say which images ``[start, stop)`` are wanted, in that order; it forgets what it was told before."""
        with suppress(OSError):  # it was killed: the run does without
            self._ask.send(list(runs))

    def close(self) -> None:
        """End the process."""
        self._ask.close()
        self.process.terminate()
        self.process.join()


class WindowPrefetcher:
    """Fetches the window of an order that is in use, and then the next one, while the images are trained on."""

    def __init__(self, source: Prefetchable, order: BlockShuffleSampler) -> None:
        """Start the process."""
        self.order, self.fetching = order, PrefetchProcess(source)
        self._told: tuple[int, int] | None = None

    def at(self, epoch: int, position: int) -> None:
        """Say that the run is at this position of an epoch."""
        window = self.order.window_at(epoch, position)
        if self._told == (epoch, window):
            return
        self._told = epoch, window
        following = (epoch, window + 1) if window + 1 < self.order.windows else (epoch + 1, 0)
        self.fetching.tell([*self.order.ranges(epoch, window), *self.order.ranges(*following)])

    def close(self) -> None:
        """End the process."""
        self.fetching.close()


def _fetch(source: Prefetchable, asked: Connection, ask: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which saves first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ask.close()  # or the end of the other process would not be seen

    def prefetch(run: Run) -> None:
        with suppress(UserError):
            source.prefetch(*run)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while True:
            try:
                runs = asked.recv()
                while asked.poll():  # the run is further already
                    runs = asked.recv()
            except EOFError:
                return
            list(pool.map(prefetch, runs))
