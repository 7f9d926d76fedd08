"""A process that fetches the shards of the next part while the images of this one are embedded."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from coterie.data.source import Fetched, blocks
from coterie.errors import UserError

_AT_ONCE = 4  # shards that are fetched at the same time

Run = tuple[int, int]


class Bringing:
    """Has the shards of some runs of images on this machine, if they are in a store; elsewhere it does nothing.

    It has a process of its own, as what fetches ahead of a training run has (`coterie.data.ahead`), and for the same reasons:
    it is forked before there are threads, and ends when this process does. What cannot be fetched is left to whoever asks for
    the images: they say what is wrong.
    """

    def __init__(self, source: object) -> None:
        """Start the process, if there is anything to fetch."""
        self._ask: Connection | None = None
        lies = blocks(source)  # type: ignore[arg-type]
        if not (lies.fetched and isinstance(source, Fetched)):
            return
        self._starts = np.asarray(lies.starts, dtype=np.int64)
        context = get_context("fork")
        asked, self._ask = context.Pipe(duplex=False)
        self._process = context.Process(target=_fetch, args=(source, asked, self._ask), daemon=True)
        self._process.start()
        asked.close()

    def tell(self, runs: Sequence[Run]) -> None:
        """Say which images ``[start, stop)`` are wanted now and next, in that order; it forgets what it was told before."""
        if self._ask is not None:
            with suppress(OSError):  # it was killed: the images are asked for one by one
                self._ask.send([shard for run in runs for shard in self._shards(*run)])

    def close(self) -> None:
        """End the process."""
        if self._ask is not None:
            self._ask.close()
            self._process.terminate()
            self._process.join()

    def _shards(self, start: int, stop: int) -> list[Run]:
        """The runs, a shard each, that have an image of this run."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        return [(int(self._starts[k]), int(self._starts[k + 1])) for k in range(first, last)]


def _fetch(source: Fetched, asked: Connection, ask: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ask.close()  # or the end of the other process would not be seen

    def bring(run: Run) -> None:
        with suppress(UserError):
            source.bring(*run)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while True:
            try:
                runs = asked.recv()
                while asked.poll():  # the other process is further already
                    runs = asked.recv()
            except EOFError:
                return
            list(pool.map(bring, runs))
