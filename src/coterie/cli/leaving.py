"""How the command ends when a signal asks it to: within seconds, with one line, whatever it is doing."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path

from coterie.atomic import remove_own_unfinished
from coterie.cli.parsing import PROCESS
from coterie.paths import expand
from coterie.signals import (
    AGAIN,
    SIGNALS,
    Interrupted,
    heard,
    if_stopped,
    is_second,
    leaving_now,
    listening,
    saved_after,
)

GRACE_SECONDS = 5.0
"""How long a command that was asked to stop may go on until it comes to a place where it checks for that."""
_LOOK_SECONDS = 0.1


class LastLine:
    """The one line that ends the command: the first thread that has one to say says it."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self._said = threading.Lock()

    def say(self, text: str) -> bool:
        """Print the line; False if another thread has printed one."""
        if not self._said.acquire(blocking=False):
            return False
        which = "" if PROCESS == "0" else f" (process {PROCESS})"
        with suppress(OSError):  # nobody reads it any more
            sys.stderr.write(f"coterie{which}: {text}\n")
            sys.stderr.flush()
        return True


@contextmanager
def leaving_on_signals() -> Iterator[LastLine]:
    """Context of a command: signals stop it where it checks for them, or where it is if it does not for too long.

    A thread waits for signals, because the main thread, which handles them, may be busy for minutes inside a library. The
    thread ends the process after `GRACE_SECONDS` if nothing would be lost (:func:`coterie.signals.if_stopped`), and at once
    after a second SIGINT. After the context, signals that follow the first one are ignored: the command is about to end.
    """
    last = LastLine()
    if threading.current_thread() is not threading.main_thread():
        yield last
        return
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with listening(), if_stopped(lambda: AGAIN):
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(receiver, last), name="signals", daemon=True).start()
        try:
            yield last
        finally:
            signal.set_wakeup_fd(-1)
            stopped = heard() is not None
            if not stopped:
                os.close(sender)  # which ends the thread; otherwise it sees to it that the process ends
    for number in SIGNALS if stopped else ():
        signal.signal(number, signal.SIG_IGN)


def kept_of_run(out: Path) -> str:
    """How the line about a stop ends while a run in the folder ``out`` starts or resumes."""
    steps = [int(path.name.split("-")[1]) for path in expand(out).glob("checkpoint/step-*.pt")]
    return saved_after(max(steps, default=0))


def _watch(receiver: int, last: LastLine) -> None:
    """Wait for signals, whose numbers are written to the pipe, and end the process if it does not end by itself."""
    first, since = 0, 0.0
    while True:
        ready, _, _ = select.select([receiver], [], [], _LOOK_SECONDS if first else None)
        came = os.read(receiver, 4096) if ready else b""
        if ready and not came:
            os.close(receiver)
            return
        now, asked = time.monotonic(), [each for each in came if each in SIGNALS]
        if asked and not first:
            first, since = asked[0], now
        elif signal.SIGINT in asked and is_second(now - since):
            _leave(Interrupted(first, " and a second SIGINT, at once" + AGAIN), last)
        if first and now - since > GRACE_SECONDS:
            stopped = leaving_now(first)
            if stopped is not None:
                _leave(stopped, last)


def _leave(stopped: Interrupted, last: LastLine) -> None:
    """End the process: its children, and what it has half written, go with it."""
    for child in active_children():
        with suppress(OSError):
            child.kill()
    remove_own_unfinished()
    sys.stderr = sys.__stderr__ or sys.stderr  # a live line of progress redirects it
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")  # a progress bar hides the cursor
    last.say(str(stopped))
    os._exit(stopped.status)


def _sleep_through() -> None:
    """In a forked process: its signals are not its parent's."""
    with suppress(ValueError):  # not forked by the main thread, so nothing of this was inherited
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_sleep_through)
