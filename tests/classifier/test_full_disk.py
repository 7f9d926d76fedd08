"""A full disk while a classifier is trained: one line, nothing half written, and the same command goes on."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.evaluation.probes import recipe
from tests.faults.running import Command, error_line, small_file_system

KIB = 2**10
STEPS = 20


def few_steps(steps: int) -> None:
    recipe.MIN_STEPS = steps


@pytest.mark.parametrize(
    ("kind", "free_kib"),
    [
        ("linear", 8),  # no room for the features
        ("finetune", 4500),  # none for the state of the training
        ("finetune", 7000),  # none for the classifier
    ],
)
def test_the_same_command_goes_on(kind, free_kib, weights: Path, painted: Path, tmp_path: Path, monkeypatch):
    words = ["train", str(weights), str(painted), "--classifier", kind, "--device", "cpu", "--workers", "0"]
    with small_file_system(tmp_path / "disk", "size=20m") as disk:
        out = disk / "out"
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(20 * KIB**2 - free_kib * KIB))
        train = partial(
            Command, [*words, "--out", str(out), "--precision", "float32"], before=partial(few_steps, STEPS)
        )
        status, output = train(tmp_path / "first.txt").end()
        assert status == 2, output
        assert "the disk is full" in error_line(output)
        assert not list(disk.rglob("*.part"))
        assert not (out / "classifier.safetensors").exists()
        assert (out / "metrics.jsonl").exists() == (kind == "finetune")
        ballast.unlink()
        status, output = train(tmp_path / "second.txt").end()
        assert status == 0, output
        assert ("resumes after step 20 of 20" in output) == (free_kib == 7000)
        shutil.copytree(out, tmp_path / "out")
    monkeypatch.setattr(recipe, "MIN_STEPS", STEPS)
    here = {"quiet": True, "device": "cpu", "workers": 0, "precision": "float32"}
    coterie.train(weights, painted, out=tmp_path / "whole", classifier=kind, **here)
    ours, theirs = (load_file(tmp_path / each / "classifier.safetensors") for each in ("out", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
