import stat
from pathlib import Path

import pytest
import torch

from coterie.atomic import remove_unfinished, writing
from coterie.errors import UserError
from coterie.training.checkpoint_io import list_checkpoints, load, save


def state(value: float) -> dict:
    return {"weights": torch.full((1000,), value), "step": value}


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        save(tmp_path, state(step), step)
    step, loaded, passed_over = load(tmp_path)
    assert (step, passed_over) == (100, [])
    assert loaded["weights"][0] == 100
    assert [step for step, _ in list_checkpoints(tmp_path)] == [100, 20]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file_is_passed_over_with_a_line(tmp_path: Path, damage: str) -> None:
    save(tmp_path, state(1), 1)
    save(tmp_path, state(2), 2)
    newest = list_checkpoints(tmp_path)[0][1]
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    step, loaded, passed_over = load(tmp_path, set_aside=True)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1]
    assert step == 1
    assert loaded["step"] == 1
    assert len(passed_over) == 1
    assert "damaged" in passed_over[0]


def test_nothing_there(tmp_path: Path) -> None:
    assert load(tmp_path / "nowhere") == (0, None, [])


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, state(1), 1)
    left = tmp_path / ".step-000000002.pt.123.part"
    left.write_bytes(b"half")
    assert load(tmp_path)[0] == 1
    remove_unfinished(tmp_path)
    assert not left.exists()


def test_the_file_mode_follows_the_umask(tmp_path: Path) -> None:
    with writing(tmp_path / "file") as part:
        part.write_text("x")
    (tmp_path / "plain").write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with writing(tmp_path / "file") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
