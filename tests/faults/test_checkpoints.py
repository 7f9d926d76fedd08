"""A checkpoint that is cut short, damaged or made to do harm: the one before it is taken, in one line."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from coterie.training.checkpoint_io import list_checkpoints
from tests.faults.running import Run, assert_same_runs, complaint, seeded


@pytest.fixture(scope="module")
def begun(shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed and has two checkpoints."""
    out = tmp_path_factory.mktemp("begun") / "run"
    run = Run(shard, out)
    assert run.has_saved(more_than=4)
    run.kill()
    for part in out.rglob(".*.part"):
        part.unlink()
    assert len(list_checkpoints(out / "checkpoint")) >= 2
    return out


class Shout:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def damage(path: Path, how: str, shouted: Path) -> None:
    place = seeded().randrange(path.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "cut short":
        path.write_bytes(content[:place])
    elif how == "a flipped bit":
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
    else:  # with the right checksum in its name
        torch.save({"student": Shout(shouted)} if how == "a command" else {"student": 3}, path)
        path.rename(path.with_name(f"{path.name[:15]}{sha256(path.read_bytes()).hexdigest()[:16]}.pt"))


@pytest.mark.parametrize("how", ["cut short", "a flipped bit", "a command"])
def test_the_checkpoint_before_is_taken(begun: Path, shard: Path, whole: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    (_, newest), (step, _), *_ = list_checkpoints(out / "checkpoint")
    damage(newest, how, tmp_path / "shouted")
    status, said = Run(shard, out, workers=2).end()
    assert status == 0, said
    assert said.count("is skipped") == 1
    assert f"resumes at step {step}" in said
    assert not (tmp_path / "shouted").exists()
    assert len(list((out / "checkpoint").glob("*.damaged"))) == 1
    assert_same_runs(out, whole)


@pytest.mark.parametrize("how", ["cut short", "a command", "another content"])
def test_where_none_is_whole_nothing_is_overwritten(begun: Path, shard: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(begun, out)
    for _, path in list_checkpoints(out / "checkpoint"):
        damage(path, how, tmp_path / "shouted")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, said = Run(shard, out).end()
    assert status == 2, said
    assert "start over with another --out" in complaint(said)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "shouted").exists()
