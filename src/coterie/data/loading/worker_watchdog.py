"""Worker processes that die or hang: reported in one line, where their results are awaited and nowhere else."""

import atexit
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from coterie.distributed.processes import interruptible
from coterie.errors import UserError

WORKER_TIMEOUT_SECONDS = 600.0
"""How long to wait for a batch before workers are considered to hang."""
_DYING_SECONDS = 5.0
_END: Any = object()


def watch_workers(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield what worker processes make; they start when the iteration does.

    A worker that dies ends the wait at once. Workers that return nothing for `WORKER_TIMEOUT_SECONDS` are killed: torch's
    own timeout does not notice a worker that stops while handing over its result, and one that hangs would block the end of
    the program. So are workers whose results are no longer wanted: they ignore everything but SIGKILL.

    Args:
        batches: Starts the workers when it is iterated, such as a torch DataLoader.

    Raises:
        UserError: A worker died, or workers hang.
        Interrupted: A signal stops the program while it waits.
    """
    in_main = threading.current_thread() is threading.main_thread()
    others, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    iterator = iter(batches)
    workers = [each for each in multiprocessing.active_children() if each not in others]
    if in_main:
        signal.signal(signal.SIGCHLD, handler)  # torch's handler raises wherever the main thread happens to be
    watchdog = _Watchdog(workers)
    atexit.register(
        watchdog.kill
    )  # for a program that ends with an error elsewhere: asking workers to stop takes longer
    try:
        while True:
            with watchdog.waiting(in_main):
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield batch
    finally:
        watchdog.kill()  # those that are left: after an error, or when the iteration is given up
        watchdog.finished.set()
        atexit.unregister(watchdog.kill)


def exit_on_unsent_result() -> None:
    """In a worker: exit if a result cannot be sent, for lack of shared memory; otherwise it is awaited in vain."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))  # type: ignore[attr-defined]


class _Watchdog:
    """Notices that workers die or hang while a result is awaited."""

    def __init__(self, workers: list[BaseProcess]) -> None:
        self.workers, self.finished = workers, threading.Event()
        self.waiting_since: float | None = None
        self.hung = False
        if workers:
            threading.Thread(target=self._watch_clock, name="watchdog", daemon=True).start()

    @contextmanager
    def waiting(self, in_main: bool) -> Iterator[None]:
        """While a result is awaited: raise as soon as a worker is dead."""
        previous = signal.signal(signal.SIGCHLD, self._raise_if_dead) if in_main else None
        self.waiting_since = time.monotonic()
        try:
            with interruptible() if self.workers else nullcontext():  # decoding would take it for a bad image
                self._raise_if_dead()
                yield
        except UserError:
            raise
        except Exception as error:
            # A process closes its files and sockets before it is dead, its sentinel among them: until then it has no exit code.
            if isinstance(error, OSError | EOFError | RuntimeError):
                dying = wait([each.sentinel for each in self.workers], timeout=_DYING_SECONDS)
                for each in self.workers:
                    if each.sentinel in dying:
                        each.join()
            self._raise_if_dead()
            raise
        finally:
            self.waiting_since = None
            if in_main:
                signal.signal(signal.SIGCHLD, previous)

    def _raise_if_dead(self, *_: object) -> None:
        if not any(each.exitcode for each in self.workers):
            return
        if self.hung:
            raise UserError(
                f"the loader workers returned nothing for {WORKER_TIMEOUT_SECONDS:g} seconds and were killed: check that "
                "the storage of the images responds, then run the same command again to resume"
            )
        raise UserError(
            "a loader worker was killed, most often for lack of memory, or of shared memory (docker run --shm-size): use "
            "fewer (--set run.workers=...), then run the same command again to resume"
        )

    def _watch_clock(self) -> None:
        while not self.finished.wait(WORKER_TIMEOUT_SECONDS / 10):
            since = self.waiting_since
            if since is not None and time.monotonic() - since > WORKER_TIMEOUT_SECONDS:
                self.hung = True
                self.kill()
                return

    def kill(self) -> None:
        """Kill all workers."""
        for each in self.workers:
            each.kill()
