"""Ctrl-C during ``coterie embed``: one line, nothing half-written, and the same command completes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.embedding.running import BROKEN, IMAGES, PART, PARTS, Made, assert_same_rows, make, stamps, until_begun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


def embed_in_own_group(made: Made, out: Path) -> subprocess.Popen[str]:
    """The command with two loader workers, in a process group of its own, as a terminal gives one to each command."""
    sizes = ["--part-images", str(PART)] if out.suffix != ".parquet" else []
    command = ["embed", str(made.run), str(made.images), "--out", str(out), "--workers", "2", *sizes]
    return subprocess.Popen(
        [sys.executable, "-m", "coterie", *command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        process_group=0,
    )


def group_is_gone(group: int, within: float = 30) -> bool:
    """Whether no process of the group is left: the workers end by themselves."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("name", "part"), [("out", PARTS[0]), ("out", PARTS[2]), ("out.parquet", "out.parquet")])
def test_ctrl_c_leaves_nothing_half_written(made: Made, tmp_path: Path, name: str, part: str) -> None:
    out = tmp_path / name
    process = embed_in_own_group(made, out)
    until_begun(tmp_path if part == name else out, process, part)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert printed == ""
    assert errors.splitlines()[-1].startswith("coterie: stopped by SIGINT: "), errors
    assert "Traceback" not in errors
    assert group_is_gone(process.pid)
    assert not list(tmp_path.rglob(".*.part"))
    there = stamps(out) if out.is_dir() else {}
    again = embed_in_own_group(made, out)
    printed, errors = again.communicate(timeout=200)
    assert (again.returncode, printed) == (0, f"{out}: {IMAGES - len(BROKEN)} images\n"), errors
    if out.is_dir():
        assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there, "made again"
        assert_same_rows(out, made)
    else:
        assert pq.read_table(out).equals(pq.read_table(made.table))
