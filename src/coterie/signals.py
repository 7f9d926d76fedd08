"""Signals that ask the program to stop. They are noted at once, and acted upon where nothing is half done.

A signal handler that raises an error anywhere is dangerous: in the middle of a step, of a write, of a fork. So the handler
here only notes the signal. Long work calls :func:`check_interrupted` between its items, which raises :class:`Interrupted`, one
line with the exit status of a shell; inside :func:`raising`, where nothing but waiting or arithmetic is interrupted, the
handler raises it itself. What the line says about what is kept is up to those who keep it (:func:`if_stopped`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from coterie.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What schedulers and terminals send; SIGUSR1 is Slurm's ``--signal=USR1@120``."""

_TWICE_SECONDS = 0.3

AGAIN = ": run the same command again"


class Interrupted(UserError):  # noqa: N818
    """A signal stopped the program. The exit status is 128 plus its number, as a shell reports it."""

    def __init__(self, number: int, then: str) -> None:
        """Stopped by signal ``number``; ``then`` continues the line: what is kept, and what to do."""
        super().__init__(f"stopped by {signal.Signals(number).name}{then}")
        self.number, self.status = number, 128 + number


@dataclass
class _Ears:
    """Whether this process listens, what it has heard, and what would be kept if it stopped now."""

    listening: bool = False
    heard: int | None = None
    since: float = 0.0
    raising: bool = False
    raised: Interrupted | None = None
    kept: list[Callable[[], str | None]] = field(default_factory=list)


_ears = _Ears()


@contextmanager
def listening() -> Iterator[None]:
    """Context in which `SIGNALS` are noted. A second Ctrl-C raises KeyboardInterrupt wherever the program is.

    Does nothing inside another one, and in threads other than the main one, to which Python gives no signals.
    """
    if _ears.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _ears.listening, _ears.heard, _ears.raised = True, None, None
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _ears.listening, _ears.heard = False, None


def _note(number: int, _: object) -> None:
    if not _ears.listening:  # a process that was forked a moment ago, and has not yet decided what to do about signals
        return
    if _ears.heard is not None:  # several may come: of a terminal, of torchrun, of a scheduler
        if number == signal.SIGINT and is_second(time.monotonic() - _ears.since):
            raise KeyboardInterrupt
        return
    _ears.heard, _ears.since = number, time.monotonic()
    if _ears.raising:
        raise interruption(number)


def is_second(seconds: float) -> bool:
    """Whether a SIGINT so many seconds after the first signal is a second Ctrl-C of somebody who does not want to wait.

    ``timeout`` sends a signal to its command and then to the group of both; torchrun hands on what its processes may have got
    themselves.
    """
    return seconds > _TWICE_SECONDS and "TORCHELASTIC_RUN_ID" not in os.environ


def is_listening() -> bool:
    """Whether signals are noted."""
    return _ears.listening


def heard() -> int | None:
    """The number of the signal that asked this process to stop; None if there was none."""
    return _ears.heard


def check_interrupted() -> None:
    """Call this between the items of long work, where nothing is half done.

    Raises:
        Interrupted: a signal asked this process to stop.
    """
    if _ears.heard is not None:
        raise interruption(_ears.heard)


@contextmanager
def raising() -> Iterator[None]:
    """Context in which a signal raises :class:`Interrupted` at once, at any line.

    Only for waiting, and for arithmetic whose results are used afterwards: nothing that forks, writes, or changes what lasts.
    """
    if not _ears.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _ears.raising = _ears.raising, True
    try:
        check_interrupted()
        yield
    finally:
        _ears.raising = before


@contextmanager
def if_stopped(kept: Callable[[], str | None]) -> Iterator[None]:
    """Context in which the line about a stop ends with what ``kept`` returns.

    Args:
        kept: returns what is kept and what to do, or None while leaving at once would lose something. Other threads call it.
    """
    _ears.kept.append(kept)
    try:
        yield
    finally:
        _ears.kept.remove(kept)


def leaving_now(number: int) -> Interrupted | None:
    """The error with which this process could leave at this moment because of signal ``number``; None: it would lose something.

    The main thread may not have handled the signal yet.
    """
    kept = _ears.kept[-1]() if _ears.kept else AGAIN
    if kept is None:
        return None
    return _ears.raised or Interrupted(number, kept)  # one that is on its way knows more than what is left to unwind


def saved_after(steps: int) -> str:
    """How the line about a stop ends for a run that is saved after so many steps."""
    if steps == 0:
        return " before the first step: run the same command again to start"
    return f" and saved after step {steps}: run the same command again to resume"


def interruption(number: int) -> Interrupted:
    """The error for a stop by signal ``number`` at this moment."""
    kept = _ears.kept[-1]() if _ears.kept else AGAIN
    stopped = Interrupted(number, kept or AGAIN)
    if kept is not None:
        _ears.raised = stopped
    return stopped


def _forget() -> None:
    """In a forked process: the signals that its parent has heard, and what it would keep, are not its own."""
    global _ears
    _ears = _Ears()


os.register_at_fork(after_in_child=_forget)
