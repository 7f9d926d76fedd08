"""A shard that disappears, is truncated or changes while a run reads it: no traceback, and never silently."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.running import IMAGES, Run, error_line, write_shard


def disappears(shard: Path) -> None:
    shard.unlink()


def is_truncated(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def changes(shard: Path) -> None:
    write_shard(shard, range(IMAGES - 1, 99, -1))


def is_replaced(shard: Path) -> None:
    """As a program does that writes a new file and renames it; an open file handle still reads the old one."""
    write_shard(shard.with_suffix(".new"), range(120, IMAGES)).replace(shard)


@pytest.mark.parametrize("fault", [disappears, is_truncated, changes, is_replaced])
def test_a_shard_that(fault: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "0.tar", range(100))
    second = write_shard(folder / "1.tar", range(100, IMAGES))
    run = Run(f"{folder}/*.tar", tmp_path / "run", workers=1)
    assert run.has_saved()
    fault(second)
    status, output = run.end()
    assert "Traceback" not in output
    listed = tmp_path / "run" / "bad_images.txt"
    if status:
        assert "1.tar" in error_line(output)
    elif (
        listed.exists()
    ):  # it lists which images were lost, each with a reason; the run reports their number at the end
        lost = listed.read_text().splitlines()
        assert all(re.fullmatch(r"0\d+\.png\t.+", line) for line in lost)
        assert f"{len(lost)} images could not be decoded" in output
    else:
        assert fault in (disappears, is_replaced), "unknown what was read from the changed shard"
    status, output = Run(f"{folder}/*.tar", tmp_path / "run").end()
    assert status == 0 or error_line(output)  # other images than at the start of the run are refused
