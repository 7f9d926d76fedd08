"""Worker processes that die or hang: told in one line, where their work is waited for and nowhere else."""

import atexit
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from coterie.errors import UserError

WORKER_TIMEOUT_SECONDS = 600.0
"""How long a batch is waited for before the workers are taken to hang."""
_DYING_SECONDS = 5.0
_NOTHING: Any = object()


def watched(made: Iterable[Any]) -> Iterator[Any]:
    """What worker processes make, which start when the iteration does.

    A worker that has died ends the wait at once. Workers that give nothing for `WORKER_TIMEOUT_SECONDS` are killed: torch's
    own time limit does not see a worker that stops while it hands over what it has made, and one that hangs ignores all
    but SIGKILL, and would be waited for at the end of the program.

    Raises:
        UserError: a worker died, or they hang.
    """
    in_main = threading.current_thread() is threading.main_thread()
    others, handler = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD)
    iterator = iter(made)
    processes = [each for each in multiprocessing.active_children() if each not in others]
    if in_main:
        signal.signal(signal.SIGCHLD, handler)  # torch sets one that raises wherever the main thread happens to be
    watch = _Watch(processes)
    atexit.register(watch.kill)  # of a program that ends by an error elsewhere: workers that are asked take their time
    try:
        while True:
            with watch.waiting(in_main):
                item = next(iterator, _NOTHING)
            if item is _NOTHING:
                return
            yield item
    except Exception:
        watch.kill()
        raise
    finally:
        watch.over.set()
        atexit.unregister(watch.kill)


def die_of_unsent_work() -> None:
    """In a worker: end if what it made cannot be handed over, for want of shared memory; it would be waited for in vain."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))  # type: ignore[attr-defined]


class _Watch:
    def __init__(self, processes: list[BaseProcess]) -> None:
        self.processes, self.over = processes, threading.Event()
        self.since: float | None = None  # when the wait that goes on began
        self.hung = False
        if processes:
            threading.Thread(target=self._look_at_the_clock, name="watch", daemon=True).start()

    @contextmanager
    def waiting(self, in_main: bool) -> Iterator[None]:
        before = signal.signal(signal.SIGCHLD, self._refuse_dead) if in_main else None
        self.since = time.monotonic()
        try:
            self._refuse_dead()
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError | EOFError):  # its files and sockets are closed before a process is dead
                wait([each.sentinel for each in self.processes], timeout=_DYING_SECONDS)
            self._refuse_dead()
            raise
        finally:
            self.since = None
            if in_main:
                signal.signal(signal.SIGCHLD, before)

    def _refuse_dead(self, *_: object) -> None:
        if not any(each.exitcode for each in self.processes):
            return
        if self.hung:
            raise UserError(
                f"the loader's workers gave nothing for {WORKER_TIMEOUT_SECONDS:g} seconds and were ended: see that the "
                "storage of the images answers; the same command goes on from the last checkpoint"
            )
        raise UserError(
            "a loader worker was killed, most often for want of memory, or of shared memory (docker run --shm-size): use "
            "fewer (--set run.workers=...); the same command goes on from the last checkpoint"
        )

    def _look_at_the_clock(self) -> None:
        while not self.over.wait(WORKER_TIMEOUT_SECONDS / 10):
            since = self.since
            if since is not None and time.monotonic() - since > WORKER_TIMEOUT_SECONDS:
                self.hung = True
                self.kill()
                return

    def kill(self) -> None:
        for each in self.processes:
            each.kill()
