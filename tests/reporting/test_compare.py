"""Folders of runs, whole and damaged, read to be compared."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from coterie.errors import BadRun, UserError
from coterie.reporting.compare import compare

CONFIG = 'method = "swav"\ndata = ["images"]\nepochs = 2\nbatch_size = 50\n[backbone]\nname = "resnet18"\n'


def a_folder(path: Path, steps: int | None = 40) -> Path:
    (path / "checkpoint").mkdir(parents=True)
    (path / "config.toml").write_text(CONFIG)
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "epoch": 0, "loss_over_ln_k": 0.9}) + "\n" for step in (9, 19))
    )
    (path / "run.json").write_text('{"images": 1000}')
    weights = {"conv.weight": torch.zeros(4, 3, 3, 3), "bn.weight": torch.zeros(4), "bn.running_mean": torch.zeros(4)}
    safetensors.torch.save_file(weights, path / "model.safetensors")
    if steps is not None:
        (path / "checkpoint" / f"step-{steps:09d}-{'0' * 16}.pt").touch()
    return path


def test_whole_folders_are_read(tmp_path: Path) -> None:
    found = compare([a_folder(tmp_path / "one"), a_folder(tmp_path / "two")])
    assert found.names == ("one", "two")
    assert found.remarks == ()
    lines = {line.name: line.cells for section in found.sections for line in section.lines}
    assert lines["parameters, million"] == (112 / 1e6, 112 / 1e6)
    assert lines["images"] == (1000, 1000)
    assert lines["loss / ln K"] == (0.9, 0.9)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [a_folder(tmp_path / part / "run") for part in ("a", "b")]
    assert compare(paths).names == ("a/run", "b/run")


def test_damaged_and_unfinished_runs_are_taken_with_a_remark(tmp_path: Path) -> None:
    torn, new = a_folder(tmp_path / "torn", steps=20), a_folder(tmp_path / "new", steps=None)
    with (torn / "metrics.jsonl").open("a") as file:
        file.write('{"step": 29, "ep\n{"step": 39, "epoch": 1, "loss_over_ln_k": 0.5}\n')
    (torn / "model.safetensors").write_bytes(b"no weights")
    (new / "run.json").unlink()
    (new / "model.safetensors").unlink()
    found = compare([torn, new])
    assert found.remarks == (
        f"line 3 is damaged in {torn / 'metrics.jsonl'} and ignored: 3 of 4 are intact",
        "torn is unfinished: 20 of 40 steps are saved",
        "new has no checkpoint yet: its last figures are those of its log",
    )
    lines = {line.name: line.cells for section in found.sections for line in section.lines}
    assert lines["loss / ln K"] == (0.5, 0.9)
    assert "parameters, million" not in lines


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    one = a_folder(tmp_path / "one")
    with pytest.raises(UserError, match="two runs or more"):
        compare([one])
    with pytest.raises(UserError, match="named twice"):
        compare([one, tmp_path / "one" / "." / "checkpoint" / ".."])
    with pytest.raises(BadRun, match=r"nothing is not a run's folder: it has no config.toml"):
        compare([one, tmp_path / "nothing"])
