import sys
from pathlib import Path

import pytest

from coterie.cli import main as cli


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run the command in this process: (exit status, standard output, standard error)."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["coterie", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run
