"""``python -m tests.faults.paused_command FOLDER RANK PATH CALL SECONDS WORDS``: the command, paused on one process.

Its status is left in a file, since torchrun does not always tell it.
"""

import os
import sys
from pathlib import Path

from tests.faults.test_stops import STUCK, pausing


def command_with_status(folder: Path, words: list[str]) -> None:
    """Be the command, and leave its status in a file of the folder, named after the process."""
    own_process = os.getpid()
    file, leave = folder / f"{os.environ.get('RANK', '0')}.status", os._exit

    def leaving(status: int) -> None:
        if os.getpid() == own_process:  # not of a loader worker
            file.write_text(str(status))
        leave(status)

    os._exit = leaving  # type: ignore[assignment]
    sys.argv = ["coterie", *words]
    from coterie.cli.main import main

    try:
        main()
        file.write_text("0")
    except SystemExit as error:
        file.write_text(str(error.code))
        raise


def main() -> None:
    folder, rank, path, call, seconds, *words = sys.argv[1:]
    own = os.environ["RANK"]
    at = int(call) if rank == own else -1
    grace = 1.0 if float(seconds) == STUCK else 5.0
    pausing(path, at, float(seconds), Path(folder) / "paused", grace)
    command_with_status(Path(folder), words)


if __name__ == "__main__":
    main()
