"""Around each function of :mod:`coterie.api`: who receives its messages, and the caller's state, which stays as it was."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from coterie.display.terminal import Terminal
from coterie.errors import CoterieWarning, UserError
from coterie.global_state import restoring_global_state
from coterie.logger import BudgetLogger, CheckedLogger, Logger, NullLogger, StepLogger

_PACKAGE = str(Path(__file__).parent) + os.sep
_AT_WORK = threading.RLock()  # reentrant: a callback may call coterie
_loggers: list[Logger] = []  # of the sessions that are open, the innermost last


@contextmanager
def session(logger: Logger | None, quiet: bool) -> Iterator[Logger]:
    """Context of a function of the API; yields the logger that it should use.

    Warnings are sent through :mod:`warnings`, whoever else receives them. Of several processes only the first one shows
    anything without a logger of the caller's.

    Args:
        logger: the caller's; None: progress is shown, unless the caller is itself within a session, whose logger it uses.
        quiet: show nothing, if there is no ``logger``.

    Raises:
        UserError: another thread of this process is in a session: both would draw from the same random generators.
    """
    if not _AT_WORK.acquire(blocking=False):
        raise UserError(
            "coterie is at work in another thread of this process, and random generators and threads are shared by a process: "
            "wait for it, or start a second process"
        )
    shown: Terminal | None = None
    try:
        if logger is not None:
            chosen: Logger = logger if _sends_warnings(logger) else WarningLogger(logger)
        elif not _is_first_process():
            chosen = NullLogger()
        elif quiet:
            chosen = WarningLogger(NullLogger())
        elif _loggers:
            chosen = _loggers[-1]
        else:
            shown = Terminal(prints_warnings=False)
            chosen = WarningLogger(shown)
        _loggers.append(chosen)
        try:
            with restoring_global_state():
                yield chosen
        finally:
            _loggers.pop()
            if shown is not None:
                shown.close()
    finally:
        _AT_WORK.release()


class WarningLogger:
    """Passes everything on to another logger, and sends warnings through :mod:`warnings` too."""

    def __init__(self, logger: Logger) -> None:
        """Pass on to ``logger``."""
        self.logger = logger
        self.info, self.log_metrics, self.progress = logger.info, logger.log_metrics, logger.progress
        if isinstance(logger, StepLogger):
            self.log_step = logger.log_step
        if isinstance(logger, BudgetLogger):
            self.log_budget = logger.log_budget

    def warning(self, text: str) -> None:
        """Pass on a warning, and warn the caller of the API."""
        self.logger.warning(text)
        frame = _callers_frame()
        if frame is None:
            warnings.warn(text, CoterieWarning, stacklevel=2)
            return
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "__main__")
        registry = frame.f_globals.setdefault("__warningregistry__", {})
        warnings.warn_explicit(text, CoterieWarning, *place, registry=registry)


def refuse_torchrun() -> None:
    """Refuse several processes where each would do all of it, and they would be in each other's way.

    Raises:
        UserError: torchrun started more than one process.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("this command runs in one process: start it without torchrun")


def _is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def _sends_warnings(logger: Logger) -> bool:
    """Whether a logger is that of a session, such as the one that a run gives its callbacks."""
    while isinstance(logger, CheckedLogger):
        logger = logger.logger
    return isinstance(logger, WarningLogger)


def _callers_frame() -> FrameType | None:
    """The frame that called into this package, such as a line of a script."""
    frame: FrameType | None = sys._getframe(1)
    found = None
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            found = None
        elif found is None:
            found = frame
        frame = frame.f_back
    return found
