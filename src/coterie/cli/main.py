"""The command ``coterie``: its verbs, and how it ends."""

import os
import select
import sys
import time
import warnings
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError

from coterie.cli import answer_commands, commands
from coterie.cli.leaving import leaving_on_signals
from coterie.cli.mistakes import explain_mistake
from coterie.cli.waiting import wait_asleep
from coterie.errors import CoterieWarning, UserError
from coterie.signals import heard, interruption
from coterie.version import __version__

app = App(
    name="coterie",
    help="Learn visual features from unlabeled images by grouping them.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
VERBS = {
    verb.__name__: verb
    for verb in (
        commands.plan,
        commands.profile,
        commands.pretrain,
        answer_commands.train,
        answer_commands.export,
        commands.evaluate,
        answer_commands.transfer,
        commands.select,
        commands.compare,
        commands.report,
        commands.embed,
        answer_commands.structure,
        answer_commands.predict,
        commands.demo,
        commands.schema,
    )
}
for verb in VERBS.values():
    app.command(verb)
app.register_install_completion_command(
    help="Complete verbs and options with the Tab key in your shell: bash, zsh or fish."
)

BROKEN_PIPE = 141
"""Exit status when whoever read the output has left: 128 and SIGPIPE, as of any other program."""


def main() -> None:
    """Run the command; what a user can fix is one plain line and exit status 2."""
    wait_asleep()
    warnings.simplefilter("ignore", CoterieWarning)  # the terminal shows them
    _open_closed_streams()
    with leaving_on_signals() as last:
        text, status = _run_for_readers(sys.argv[1:])
        if not text:
            return
    if not last.say(text):
        time.sleep(60)  # the thread that has said why is ending the process
    raise SystemExit(status)


def _run_for_readers(words: Sequence[str]) -> tuple[str, int]:
    """Run the command, and leave without a word if nobody reads what it writes; returns what :func:`_run` does."""
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():  # another pipe: a bug of ours
            raise
        _leave()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich turns it into an exit with status 1
            _leave()
        raise


def _run(words: Sequence[str]) -> tuple[str, int]:
    """Run the command; returns the line that ends it, empty if all is well, and the status."""
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    try:
        app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        verb = words[0] if words[0] in VERBS else ""
        options = {name for each in app[verb].assemble_argument_collection() for name in each.names} if verb else set()
        known = explain_mistake(words, VERBS, options | {"--help", "-h"}) or _explain(error, words)
        return f"{known} ({' '.join(['coterie', verb]).strip()} --help)", 2
    except UserError as error:
        return str(error), error.status
    except KeyboardInterrupt:
        return "stopped by SIGINT, at once: run the same command again", 130
    except Exception:
        number = heard()
        if number is None:
            raise
        stopped = interruption(number)  # of several processes the others have left: no connection, no store
        return str(stopped), stopped.status
    return "", 0


def _explain(error: CycloptsError, words: Sequence[str]) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name if error.argument.name.startswith("-") else error.argument.names[0]
        given = any(word.partition("=")[0] in error.argument.names for word in words)
        return f"{name} needs a value" if given else f"{name} is missing"
    if isinstance(error, UnusedCliTokensError):
        return f"{words[0]} does not take {error.unused_tokens[0]!r}" if error.unused_tokens else str(error)
    return " ".join(str(error).split())


def _open_closed_streams() -> None:
    """Open those of the three standard streams that are closed, or the next file that is opened takes its place."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _reader_left() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave() -> NoReturn:
    """Exit without a word; Python would otherwise complain when it flushes the streams that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    raise SystemExit(BROKEN_PIPE)
