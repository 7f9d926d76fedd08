"""A full, limited or read-only disk, and a folder that disappears: one error line, and the run can resume."""

import resource
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.faults.running import Run, assert_same_runs, error_line, newest_step, small_file_system

MIB = 2**20


@pytest.mark.parametrize("free_mib", [5, 9, 10.5])
def test_a_full_disk_while_saving(shard: Path, undisturbed: Path, tmp_path: Path, free_mib: float) -> None:
    with small_file_system(tmp_path / "disk", "size=40m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(int((40 - free_mib) * MIB)))
        status, output = Run(shard, disk / "run").end()
        assert status == 2, output
        assert "the disk is full" in error_line(output) or "No space left" in error_line(output)
        assert not list(disk.rglob(".*.part")), "the unfinished file still takes space"
        saved = newest_step(disk / "run")
        assert saved > 0, "there was no checkpoint before"
        ballast.unlink()
        status, output = Run(shard, disk / "run").end()
        assert status == 0, output
        assert f"resumes at step {saved}" in output
        shutil.copytree(disk / "run", tmp_path / "run")
    assert_same_runs(tmp_path / "run", undisturbed)


def limited(size: int) -> None:
    """Let no file of this process grow beyond ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [300_000, 2 * MIB])
def test_a_file_size_limit(shard: Path, tmp_path: Path, size: int) -> None:
    """300 kB are too small for the weights, 2 MiB for a checkpoint."""
    status, output = Run(shard, tmp_path / "run", before=partial(limited, size)).end()
    assert status == 2, output
    assert "cannot write" in error_line(output) or "disk is full" in error_line(output)
    assert not list((tmp_path / "run").rglob(".*.part"))


def test_a_read_only_output_folder(shard: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", "ro") as disk:
        status, output = Run(shard, disk / "run").end()
    assert status == 2, output
    assert "Read-only file system; choose another --out" in error_line(output)


def test_an_output_folder_removed_during_the_run(shard: Path, tmp_path: Path) -> None:
    run = Run(shard, tmp_path / "run", epochs=50)
    assert run.has_saved()
    shutil.rmtree(tmp_path / "run")
    status, output = run.end()
    assert status == 2, output
    assert "cannot write" in error_line(output)
