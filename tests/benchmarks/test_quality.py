"""The benchmark of features per minute: its images, folds, clock and tables; rows at toy size."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import clock
import judge
import numpy as np
import pytest
import table
import torch
from PIL import Image

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run as run_script

QUALITY = BENCHMARKS / "quality"


def prepare_of_quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_of_quality", QUALITY / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = prepare_of_quality()


def row(contestant: str, seed: int, knn20: float, **others: Any) -> table.Report:
    training = {
        "epochs": 40,
        "seconds_cpu": 1200.0,
        "images_seen": 400_000,
        "share_of_budget": 1.0,
        "within_budget": True,
    }
    return {
        "contestant": contestant, "tag": "", "data": "cifar10", "split": "test", "seed": seed, "minutes": 20.0, "cores": 1,
        "clock": "cpu", "processor": "A", "commit": "abc", "set": [], "epochs_given": None, "training": training,
        "figures": {"knn20": knn20, "linear": knn20 + 10, "effective_rank": 30.0},
    } | others  # fmt: skip


def three(contestant: str, accuracies: tuple[float, ...], **others: Any) -> list[table.Report]:
    return [row(contestant, seed, each, **others) for seed, each in enumerate(accuracies)]


def test_differences_are_of_equal_seeds_and_against_the_best_simclr() -> None:
    rows = three("coterie-swav", (60.0, 61.0, 65.0)) + three("coterie-smog", (61.0, 62.0, 66.0))
    rows += three("coterie-simclr", (59.0, 59.0, 59.0)) + three("coterie-simclr-unregularized", (60.0, 60.0, 60.0))
    rows += three("coterie-simclr", (70.0,), tag="lucky") + three("coterie-alignment", (50.0,))
    rows += three("coterie-swav", (50.0, 51.0, 55.0), tag=table.BEFORE)
    said = table.tables(rows, "cifar10", "test")
    lines = {name: cells for name, *cells in (line[2:].split(" | ") for line in said.splitlines() if line[:2] == "| ")}
    assert lines["coterie-swav"][:2] == ["0 1 2", "62.0 ± 2.6"]
    assert lines["coterie-swav - coterie-simclr-unregularized"][:2] == ["0 1 2", "+2.0 ± 2.6"]
    assert lines["coterie-smog - coterie-swav"][:2] == ["0 1 2", "+1.0 ± 0.0"]
    assert lines["coterie-swav - coterie-alignment"][:2] == ["0", "+10.0"]
    assert lines["coterie-swav - coterie-swav before"][:2] == ["0 1 2", "+10.0 ± 0.0"]
    assert "coterie-swav - coterie-simclr" not in lines
    assert "kNN 20, 1 core" not in said  # a curve needs two budgets


def test_no_table_mixes_processors_splits_or_budgets() -> None:
    rows = [row("coterie-swav", 0, 60.0), row("coterie-swav", 0, 61.0, processor="B")]
    rows += [row("coterie-swav", 0, 62.0, split="tuning"), row("coterie-swav", 0, 50.0, minutes=5.0)]
    parts = table.tables(rows, "cifar10", "test").split("### ")[1:]
    assert [part.splitlines()[0].split("test: ")[1] for part in parts] == [
        "5 minutes of 1 core, cpu time; A",
        "20 minutes of 1 core, cpu time; A",
        "20 minutes of 1 core, cpu time; B",
    ]
    assert "| coterie-swav | 50.0 | 60.0 |" in parts[1]  # the curve of A
    assert "62.0" not in "".join(parts)
    with pytest.raises(ValueError, match="two rows of coterie-swav"):
        table.tables([rows[0], rows[0]], "cifar10", "test")


def test_the_gap_between_untrained_and_public_weights() -> None:
    free = [row(name, 0, each, data="steel") for name, each in (("untrained", 40.0), ("public-weights", 80.0))]
    for each in free:
        del each["training"]
    said = table.tables([*free, row("coterie-swav", 0, 65.0, data="steel")], "steel", "test")
    (line,) = (line for line in said.splitlines() if line.startswith("| coterie-swav"))
    assert line.endswith("| 62 % | 62 % |")


def test_rows_of_the_other_day_are_still_read() -> None:
    said = table.tables(table.read(BENCHMARKS / "results" / "quality_2026_11"), "cifar10", "test")
    assert "| coterie-swav | 0 | 52.8 | 50.9 | - |" in said
    assert "AMD EPYC\n" in said


def test_a_rehearsal_sees_a_whole_period_and_prices_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([15.0, 20.0, 30.0, 40.0, 60.0])  # epochs of 10 s, and 10 s for a refresh before every third
    monkeypatch.setattr(clock, "now", lambda: clock.Spent(seconds := next(ends), seconds))
    told = clock.Clock(rehearsal=True, period=3, start=clock.Spent(0, 0))
    for step in (1, 2, 4, 6):  # two steps an epoch
        told.tick(step, 2)
    with pytest.raises(clock.Enough):
        told.tick(8, 2)
    assert [each.cpu for each in told.epochs] == [20, 30, 40, 60]
    assert told.paid_epochs(300.0, "cpu", 1) == int((303 - 20) / (40 / 3)) + 1


def test_folds_ask_every_class_evenly_and_no_class_of_a_few() -> None:
    labels = torch.tensor([0] * 23 + [1] * 10 + [2] * 4)
    numbers = judge.folds(labels)
    assert numbers[labels == 2].tolist() == [-1] * 4
    counts = torch.stack([numbers[labels == label].bincount(minlength=judge.FOLDS) for label in (0, 1)])
    assert counts[1].tolist() == [2] * 5
    assert counts.sum(dim=1).tolist() == [23, 10]
    assert counts.sum(dim=0).max() - counts.sum(dim=0).min() <= 1


def test_figures_of_folds_are_those_of_all_answers() -> None:
    rows = torch.eye(4, dtype=torch.float32).repeat_interleave(10, dim=0)
    labels = torch.arange(4).repeat_interleave(10)
    labels[0] = 3  # one wrong answer of forty
    assert judge.in_folds(rows, labels)["knn20"] == pytest.approx(100 * 39 / 40)


@pytest.mark.parametrize("size", [(160, 90), (90, 160)])
def test_patches_to_ask_share_no_band_with_those_to_train_on(size: tuple[int, int]) -> None:
    long = max(size)
    bands = (np.arange(long) * prepare.BANDS // long * 60).astype(np.uint8)
    pixels = np.broadcast_to(bands if size[0] == long else bands[:, None], size[::-1])
    photo = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    generator = np.random.default_rng(0)
    for band in range(prepare.BANDS):
        for _ in range(5):
            found = np.asarray(Image.open(BytesIO(prepare.patch(photo, band, generator))))
            assert found.shape == (prepare.PATCH, prepare.PATCH, 3)
            assert np.abs(found.astype(int) - 60 * band).max() <= 2


def test_images_to_tune_by_are_not_trained_on() -> None:
    train, tuning = prepare.chosen(np.repeat([0, 1, 2], 10), 6, 3)
    assert (len(train), len(tuning)) == (18, 9)
    assert not set(train) & set(tuning)
    assert [len(each) for each in prepare.chosen(np.zeros(6), 1000, 500)] == [4, 2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--set", "temperature=1"), "name it with --tag"),
        (("--data", "patches"), "patches has no test split: give --split tuning"),
        (("--data", "steel", "--only", "lightly-swav"), "lightly documents its recipes for CIFAR-10"),
    ],
)
def test_bad_input_gets_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    status, said = run_script((str(QUALITY / "run.py"), *words), tmp_path / "log", {})
    assert status == 2
    assert line in said.splitlines()[-1]


def toy_words(folder: Path, *words: str) -> tuple[str, ...]:
    where = ("--build", str(folder / "build"), "--results", str(folder / "results"))
    return (sys.executable, str(QUALITY / "run.py"), *where, *words)


def variables(toy: Path) -> Mapping[str, str]:
    return os.environ | {"COTERIE_SHARED": str(toy)}


@pytest.mark.slow
def test_rows_at_toy_size(toy: Path, tmp_path: Path) -> None:
    rows = "coterie-smog,coterie-alignment,lightly-simclr,untrained"
    words = toy_words(tmp_path, "--toy", "--only", rows, "--set", "temperature=0.15")
    for _ in range(2):
        done = subprocess.run(words, env=variables(toy), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is there\n") == 4
    found = {each["contestant"]: each for each in table.read(tmp_path / "results")}
    assert set(found) == set(rows.split(","))
    config = found["coterie-alignment"]["training"]["config"]
    assert (config["method"], config["temperature"]) == ("simclr", 0.15)
    assert config["regularizer"]["kind"] == "uniformity"
    assert config["custom"] == ["objective=alignment.build"]
    assert found["coterie-alignment"]["figures"]["groups_used"] is None
    assert found["coterie-smog"]["figures"]["groups_used"] >= 1
    assert found["lightly-simclr"]["training"]["precision"] == "float32"
    other = subprocess.run([*words, "--set", "seed=1"], env=variables(toy), capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "choose another --tag" in other.stdout
    shown = subprocess.run([*words, "--table"], env=variables(toy), capture_output=True, text=True, check=False)
    assert "| coterie-alignment toy | 0 |" in shown.stdout


@pytest.mark.slow
def test_an_interrupted_row_leaves_nothing(toy: Path, tmp_path: Path) -> None:
    words = toy_words(tmp_path, "--toy", "--only", "coterie-swav", "--epochs", "100000")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(words, env={**variables(toy), "TMPDIR": str(temporary)})
    while not list(temporary.glob("*/run/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    assert not [each for each in temporary.iterdir() if "wandb" not in each.name]  # its import leaves empty folders
    assert not (tmp_path / "results").exists()


def test_rows_name_what_they_are(tmp_path: Path) -> None:
    name = "coterie-swav-final_steel_test_5min_seed2.json"
    free = "public-weights-final_steel_test_seed2.json"
    for each in (name, free):
        (tmp_path / each).write_text(json.dumps({"set": ["temperature=1"], "epochs_given": None}))
    words = (
        "--only",
        "coterie-swav,public-weights",
        "--tag",
        "final",
        "--data",
        "steel",
        "--minutes",
        "5",
        "--seed",
        "2",
    )
    place = ("--results", str(tmp_path), "--build", str(tmp_path), "--set", "temperature=1")
    for split in ("train", "test", "tuning_train", "tuning"):
        (tmp_path / "steel").mkdir(exist_ok=True)
        (tmp_path / "steel" / f"{split}.parquet").touch()
    status, said = run_script((str(QUALITY / "run.py"), *words, *place), tmp_path / "log", {})
    assert (status, said) == (0, f"{name} is there\n{free} is there\n")
