"""``coterie embed`` and ``predict`` under torchrun: real processes and signals; every image once, row for row one table."""

import os
import signal
from pathlib import Path

import pytest

import coterie
from coterie.errors import UserError
from tests.distributed.test_torchrun import children
from tests.embedding.running import BROKEN, IMAGES, PARTS, Made, assert_same_rows, make, predicting, stamps, until_begun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


def torchrun(processes: int, *options: str) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options)


def test_a_killed_process_comes_back_and_every_image_is_there_once(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = made.started(out, "--workers", "0", start=torchrun(2, "--max-restarts=1"))
    until_begun(out, process, PARTS[3])
    there, ranks = stamps(out), children(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert PARTS[1] in there
    assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there, "made again"
    assert said.count("images\n") <= 2, "one process speaks, in each attempt"
    assert "5 of 5 parts are there\n" in errors, "whoever is last"
    assert_same_rows(out, made)


@pytest.mark.slow
def test_what_two_began_three_and_one_go_on_with(made: Made, tmp_path: Path) -> None:
    """Two that predict are killed for good, of three only one comes; then one alone finds what is missing."""
    out, made = tmp_path / "out", predicting(made)
    process = made.started(out, "--workers", "0", start=torchrun(2))
    until_begun(out, process, PARTS[2])
    for rank in children(process):
        os.kill(rank, signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert 0 < len(stamps(out)) < len(PARTS)
    (out / PARTS[0]).unlink()
    third = made.started(out, "--workers", "0", RANK="2", WORLD_SIZE="3")
    assert third.communicate(timeout=200)[0] == "", "the first speaks, and it is not there"
    there = stamps(out)
    assert PARTS[2] in there
    assert PARTS[0] not in there
    alone = made.started(out, "--workers", "0")
    said, errors = alone.communicate(timeout=200)
    assert (alone.returncode, said) == (0, f"{out}: {IMAGES - len(BROKEN)} images\n"), errors
    assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there, "made again"
    assert_same_rows(out, made)


def test_three_processes_write_no_single_file(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun does
    for rank in "012":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(UserError, match=r"give --out a name that does not end in \.parquet"):
            coterie.embed(made.run, made.images, tmp_path / "rows.parquet", workers=0, quiet=True)
    assert not list(tmp_path.iterdir())
