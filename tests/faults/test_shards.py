"""A shard that disappears, is cut short or changes while a run reads it: never a traceback, and never in silence."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.running import IMAGES, Run, complaint, write_shard


def disappears(shard: Path) -> None:
    shard.unlink()


def is_cut_short(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def changes(shard: Path) -> None:
    write_shard(shard, range(IMAGES - 1, 99, -1))


def is_replaced(shard: Path) -> None:
    """As a program that writes beside and renames does; whoever has it open still sees the old one."""
    write_shard(shard.with_suffix(".new"), range(120, IMAGES)).replace(shard)


@pytest.mark.parametrize("fault", [disappears, is_cut_short, changes, is_replaced])
def test_a_shard(fault: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shard(folder / "0.tar", range(100))
    second = write_shard(folder / "1.tar", range(100, IMAGES))
    run = Run(f"{folder}/*.tar", tmp_path / "run", workers=1)
    assert run.has_saved()
    fault(second)
    status, said = run.end()
    assert "Traceback" not in said
    listed = tmp_path / "run" / "bad_images.txt"
    if status:
        assert "1.tar" in complaint(said)
    elif listed.exists():  # which images were lost is listed, each with a reason, and said at the end
        lost = listed.read_text().splitlines()
        assert all(re.fullmatch(r"0\d+\.png\t.+", line) for line in lost)
        assert f"{len(lost)} images could not be decoded" in said
    else:
        assert fault in (disappears, is_replaced), "what was read from the shard that changed is not known"
    status, said = Run(f"{folder}/*.tar", tmp_path / "run").end()
    assert status == 0 or complaint(said)  # other images than those that the run was begun with are refused
