"""The command ``coterie``: its verbs, and how it ends."""

import os
import sys
import time

from cyclopts import App, CycloptsError

from coterie.cli import commands
from coterie.cli.leaving import leaving_on_signals
from coterie.errors import UserError
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
for verb in (
    commands.plan,
    commands.profile,
    commands.pretrain,
    commands.evaluate,
    commands.transfer,
    commands.select,
    commands.compare,
    commands.report,
    commands.embed,
    commands.demo,
):
    app.command(verb)


def main() -> None:
    """Run the command; what a user can fix is one plain line and exit status 2."""
    # Threads that wait asleep cost a CPU run 5 % alone, and save it two thirds of its time beside another busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with leaving_on_signals() as last:
        text, status = _run()
        if not text:
            return
    if not last.say(text):
        time.sleep(60)  # the thread that has said why is ending the process
    raise SystemExit(status)


def _run() -> tuple[str, int]:
    """Run the command; returns the line that ends it, empty if all is well, and the status."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return " ".join(str(error).split()) + " (coterie --help)", 2
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
