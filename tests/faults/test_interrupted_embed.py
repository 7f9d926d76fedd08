"""Ctrl-C during ``coterie embed`` or ``coterie predict``: one line, nothing half-written, and the same command completes."""

import signal
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.embedding.running import BROKEN, IMAGES, PARTS, Made, assert_same_rows, make, predicting, stamps
from tests.faults.running import Command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


def table_command(made: Made, out: Path, output: Path) -> Command:
    """The command with two loader workers, in a process group of its own, as a terminal gives one to each command."""
    return Command(made.words(out, "--workers", "2"), output)


def begun(folder: Path, command: Command, part: str) -> bool:
    """Wait until some rows of a part are being written; False if the command ends before."""
    while command.process.is_alive() and not list(folder.glob(f".{part}.*")):
        time.sleep(0.001)
    return command.process.is_alive()


@pytest.mark.parametrize(("name", "part"), [("out", PARTS[0]), ("out", PARTS[2]), ("out.csv", "out.csv")])
def test_ctrl_c_leaves_nothing_half_written(made: Made, tmp_path: Path, name: str, part: str) -> None:
    out, made = tmp_path / name, predicting(made) if name == "out.csv" else made
    said = f"{out}: {IMAGES - len(BROKEN)} images"
    command = table_command(made, out, tmp_path / "output")
    assert begun(tmp_path if part == name else out, command, part), command.output()
    command.signal_group(signal.SIGINT)
    status, output = command.end()
    assert status == 130, output
    assert said not in output
    assert output.splitlines()[-1].startswith("coterie: stopped by SIGINT: "), output
    assert "Traceback" not in output
    assert command.group_is_gone()
    assert not list(tmp_path.rglob(".*.part"))
    there = stamps(out) if out.is_dir() else {}
    status, output = table_command(made, out, tmp_path / "output").end(within=200)
    assert (status, output.splitlines()[-1]) == (0, said), output
    if out.is_dir():
        assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there, "made again"
        assert_same_rows(out, made)
    else:
        labels = pyarrow.csv.read_csv(out)["label"]
        assert labels.equals(pq.read_table(made.table)["label"])
