"""A checkpoint that is truncated, damaged or malicious: the previous one is used, and one line says so."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from coterie.training.checkpoint_io import list_checkpoints
from tests.faults.running import Run, assert_same_runs, error_line, seeded


@pytest.fixture(scope="module")
def killed_run(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed, with two checkpoints."""
    out = tmp_path_factory.mktemp("killed") / "run"
    run = Run(shard, out)
    assert run.has_saved(more_than=4)
    run.kill()
    for part in out.rglob(".*.part"):
        part.unlink()
    assert len(list_checkpoints(out / "checkpoint")) >= 2
    return out


class Command:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def damage(path: Path, how: str, created: Path) -> None:
    place = seeded().randrange(path.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[:place])
    elif how == "a flipped bit":
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
    else:  # with the right checksum in the file's name
        torch.save({"student": Command(created)} if how == "a command" else {"student": 3}, path)
        path.rename(path.with_name(f"{path.name[:15]}{sha256(path.read_bytes()).hexdigest()[:16]}.pt"))


@pytest.mark.parametrize("how", ["truncated", "a flipped bit", "a command"])
def test_the_previous_checkpoint_is_used(
    killed_run: Path, shard: Path, undisturbed: Path, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(killed_run, out)
    (_, newest), (step, _), *_ = list_checkpoints(out / "checkpoint")
    damage(newest, how, tmp_path / "created")
    status, output = Run(shard, out, workers=2).end()
    assert status == 0, output
    assert output.count("is skipped") == 1
    assert f"resumes at step {step}" in output
    assert not (tmp_path / "created").exists()
    assert len(list((out / "checkpoint").glob("*.damaged"))) == 1
    assert_same_runs(out, undisturbed)


@pytest.mark.parametrize("how", ["truncated", "a command", "other content"])
def test_without_an_intact_checkpoint_nothing_is_overwritten(
    killed_run: Path, shard: Path, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(killed_run, out)
    for _, path in list_checkpoints(out / "checkpoint"):
        damage(path, how, tmp_path / "created")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, output = Run(shard, out).end()
    assert status == 2, output
    assert "start over with another --out" in error_line(output)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "created").exists()
