"""The command ``coterie``: its verbs, and how it ends."""

import os
import sys
import warnings

from cyclopts import App, CycloptsError

from coterie.cli import commands
from coterie.cli.parsing import PROCESS
from coterie.errors import CoterieWarning, UserError
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
    warnings.simplefilter("ignore", CoterieWarning)  # the terminal shows them
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()) + " (coterie --help)")
    except UserError as error:
        _fail(str(error), error.status)
    except KeyboardInterrupt:
        _fail("stopped", 130)


def _fail(text: str, status: int = 2) -> None:
    which = "" if PROCESS == "0" else f" (process {PROCESS})"
    sys.stderr.write(f"coterie{which}: {text}\n")
    raise SystemExit(status)
