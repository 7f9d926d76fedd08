"""A disk that is full, limited or read-only, and a folder that goes away: one plain line, and what was saved goes on."""

import resource
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.faults.running import Run, assert_same_runs, complaint, newest, small_file_system

MIB = 2**20


@pytest.mark.parametrize("free_mib", [5, 9, 12])
def test_a_full_disk_while_saving(shard: Path, whole: Path, tmp_path: Path, free_mib: float) -> None:
    with small_file_system(tmp_path / "disk", "size=40m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(int((40 - free_mib) * MIB)))
        status, said = Run(shard, disk / "run").end()
        assert status == 2, said
        assert "the disk is full" in complaint(said) or "No space left" in complaint(said)
        assert not list(disk.rglob(".*.part")), "what could not be written takes room still"
        saved = newest(disk / "run")
        assert saved > 0, "not even one save came before"
        ballast.unlink()
        status, said = Run(shard, disk / "run").end()
        assert status == 0, said
        assert f"resumes at step {saved}" in said
        shutil.copytree(disk / "run", tmp_path / "run")
    assert_same_runs(tmp_path / "run", whole)


def limited(size: int) -> None:
    """No file of this process can become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [300_000, 2 * MIB])
def test_a_file_that_may_not_grow(shard: Path, tmp_path: Path, size: int) -> None:
    """300 kB are too few for the weights, 2 MiB for a checkpoint."""
    status, said = Run(shard, tmp_path / "run", before=partial(limited, size)).end()
    assert status == 2, said
    assert "cannot write" in complaint(said) or "disk is full" in complaint(said)
    assert not list((tmp_path / "run").rglob(".*.part"))


def test_a_read_only_output(shard: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", "ro") as disk:
        status, said = Run(shard, disk / "run").end()
    assert status == 2, said
    assert "Read-only file system; choose another --out" in complaint(said)


def test_an_output_that_is_removed_under_the_run(shard: Path, tmp_path: Path) -> None:
    run = Run(shard, tmp_path / "run", epochs=50)
    assert run.has_saved()
    shutil.rmtree(tmp_path / "run")
    status, said = run.end()
    assert status == 2, said
    assert "cannot write" in complaint(said)
