"""Scripts in processes that begin with torch imported: the import takes longer than what a toy does after it."""

import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.forkserver import SERVER


def start(
    command: tuple[str, ...],
    log: Path,
    variables: dict[str, str],
    parse_only: bool = False,
    errors: Path | None = None,
) -> BaseProcess:
    """A Python script with its arguments, in a process of its own; without ``errors`` they are in the log too."""
    process = SERVER.Process(target=_run, args=(command, log, variables, parse_only, errors))
    process.start()
    return process


def run(
    command: tuple[str, ...], log: Path, variables: dict[str, str], parse_only: bool = False
) -> tuple[int | None, str]:
    """Its status, and what it wrote."""
    process = start(command, log, variables, parse_only)
    process.join()
    return process.exitcode, log.read_text()


def _run(command: tuple[str, ...], log: Path, variables: dict[str, str], parse_only: bool, errors: Path | None) -> None:
    os.environ.update(variables)
    with log.open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    if errors is not None:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
    if parse_only:
        _stop_after_parsing()
    sys.argv = list(command)
    sys.path[0:0] = [str(Path(command[0]).parent)]
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.stdout.flush()


def _stop_after_parsing() -> None:
    import argparse

    parse = argparse.ArgumentParser.parse_args

    def parse_and_leave(self: argparse.ArgumentParser) -> None:
        parse(self)
        sys.exit(0)

    argparse.ArgumentParser.parse_args = parse_and_leave  # type: ignore[assignment,method-assign]
