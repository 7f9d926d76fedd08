import json
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.classifier import affordable
from coterie.classifier.classifier_file import open_classifier
from coterie.classifier.finetune import finetuning_recipe
from coterie.classifier.training_images import TrainingImages
from coterie.config.hardware import ON_CPU
from coterie.data.sources.open import open_source
from coterie.embedding.embed import embed_source
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.evaluation.probes import recipe as recipes
from coterie.evaluation.probes.classifier_training import ClassifierTraining
from coterie.exporting.backbone_file import load_backbone
from coterie.signals import Interrupted
from tests.classifier.conftest import paint

HERE = {"quiet": True, "device": "cpu", "workers": 0, "precision": "float32", "classifier": "finetune"}
STEPS = 20  # of one batch each


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "MIN_STEPS", STEPS)


def test_rates_do_not_grow_with_the_batch() -> None:
    """At a batch of 72 and 4.5 times the rate, 1,440 photographs of steel ended at chance."""
    for counts, images, batch, rate in (
        ([10] * 6, 48, 16, 0.02),
        ([40] * 6, 192, 16, 0.01),
        ([240] * 6, 1152, 72, 0.01),
    ):
        recipe = finetuning_recipe(counts, images)
        assert recipe.batch_size == batch
        assert recipe.backbone_lr == recipe.head_lr == rate * 16 / 256


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    """Eight images of each color, a quarter of them with the label of another, so that there is something to learn."""
    folder = paint(tmp_path_factory.mktemp("images") / "painted", 8)
    for number, (one, other) in enumerate([("red", "green"), ("green", "blue"), ("blue", "red")]):
        first, second = (folder / color / f"{number:02d}.png" for color in (one, other))
        first.rename(folder / "other")
        second.rename(first)
        (folder / "other").rename(second)
    return folder


@pytest.fixture(scope="module")
def tuned(weights: Path, painted: Path, tmp_path_factory) -> tuple[Path, ClassifierFigures]:
    """The folder of a fine-tuned classifier of the colors, and its figures."""
    out = tmp_path_factory.mktemp("classifiers") / "tuned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "MIN_STEPS", STEPS)
        return out, coterie.train(weights, painted, out=out, **HERE)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal during a step, once."""
    step_of, sent = ClassifierTraining._step, []

    def stepping(self, progress, batch):
        step_of(self, progress, batch)
        if self.done == step and not sent and self.what.startswith("fine-tuning"):  # not in a rehearsal
            sent.append(step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ClassifierTraining, "_step", stepping)


def test_the_network_that_is_kept_is_the_one_that_was_tested(tuned, weights: Path, painted: Path):
    folder, figures = tuned
    kept, before = open_classifier(folder), load_backbone(weights).state_dict()
    after = kept.model.network.state_dict()
    statistics = {name for name in after if "running" in name or "num_batches" in name}
    assert all(torch.equal(after[name], before[name]) for name in statistics)
    assert all(not torch.equal(after[name], before[name]) for name in after.keys() - statistics)
    found = embed_source(kept.model.network, open_source(str(painted)), kept.model.preprocessing, ON_CPU)
    best = kept.probabilities(found.rows).amax(dim=1)
    rows = pq.read_table(folder / "images.parquet").to_pylist()
    held = [place for place, row in enumerate(rows) if row["held_out_answer"] is not None]
    assert held == figures.positions.tolist()
    assert 4 <= len(held) <= 6
    told = torch.tensor([rows[place]["held_out_probability"] for place in held])
    torch.testing.assert_close(best[held], told, rtol=1e-4, atol=1e-5)
    assert kept.about["kind"] == "finetune"


def test_epochs_and_the_frozen_layer_are_in_the_log(tuned):
    folder, figures = tuned
    lines = log(folder)
    epochs = [line for line in lines if "epoch" in line]
    assert [line["epoch"] for line in epochs] == list(range(1, STEPS + 1))
    assert all({"loss", "held_out_top1"} <= line.keys() for line in epochs)
    assert [line["candidate"].split()[0] for line in lines if "candidate" in line] == ["frozen:", "fine-tuned"]
    assert sum("a linear layer on frozen features" in line for line in figures.remarks) == 1
    assert "is not measured" in str(figures)
    assert not figures.unknown
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["chosen"]["epochs"] == STEPS
    assert "Confusion matrix" in (folder / "report.html").read_text()


def test_predict_and_evaluate_take_it_as_any_other(tuned, painted: Path, tmp_path: Path):
    folder, _ = tuned
    assert coterie.predict(folder, painted, tmp_path / "labels.parquet", quiet=True, device="cpu", workers=0) == 24
    other = paint(tmp_path / "other", 4, seed=5)
    assert coterie.evaluate(folder, other, quiet=True, device="cpu", workers=0)["classifier"]["top1"] > 50


def test_stopped_and_resumed_it_has_the_same_bits(tuned, weights, painted, tmp_path, monkeypatch):
    folder, _ = tuned
    stop_at(7, monkeypatch)
    with pytest.raises(Interrupted, match="saved after step 7: run the same command again"):
        coterie.train(weights, painted, out=tmp_path / "out", **HERE)
    assert not (tmp_path / "out" / "classifier.safetensors").exists()
    assert len(log(tmp_path / "out")) == 6
    coterie.train(weights, painted, out=tmp_path / "out", **HERE)
    assert log(tmp_path / "out") == log(folder)
    ours, theirs = (load_file(each / "classifier.safetensors") for each in (tmp_path / "out", folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_one_trains_nothing_again(tuned, weights, painted, tmp_path, monkeypatch):
    copy = shutil.copytree(tuned[0], tmp_path / "copy")
    (copy / "classifier.safetensors").unlink()
    monkeypatch.setattr(ClassifierTraining, "_step", None)
    coterie.train(weights, painted, out=copy, **HERE)
    ours, theirs = (load_file(each / "classifier.safetensors") for each in (copy, tuned[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_budget_chooses_the_epochs_once(weights, painted, tmp_path, monkeypatch):
    monkeypatch.setattr(affordable, "MOST_EPOCHS", 1)
    stop_at(1, monkeypatch)
    out, options = tmp_path / "out", {**HERE, "time": "1m"}
    with pytest.raises(Interrupted):
        coterie.train(weights, painted, out=out, **options)
    before = tomllib.loads((out / "config.toml").read_text())
    assert 2 <= before["chosen"]["epochs"] <= STEPS
    assert "--time 1m pays for" in before["chosen"]["epochs_reason"]
    monkeypatch.setattr("coterie.classifier.fit.finetuning_pace", None)  # no second rehearsal
    stop_at(2, monkeypatch)
    with pytest.raises(Interrupted, match=r"saved after step 2"):
        coterie.train(weights, painted, out=out, **options)
    after = tomllib.loads((out / "config.toml").read_text())
    assert after["chosen"]["epochs"] == before["chosen"]["epochs"]
    with pytest.raises(coterie.UserError, match="was begun with time 1m, not 2m"):
        coterie.train(weights, painted, out=out, **{**options, "time": "2m"})


@pytest.mark.parametrize(
    ("kind", "what"),
    [("finetune", "too short to fine-tune: .* give --time "), ("knn", "too short: embedding 24 images")],
)
def test_a_budget_that_is_too_short_says_what_would_do(kind, what, weights, painted, tmp_path):
    with pytest.raises(coterie.UserError, match=what):
        coterie.train(weights, painted, out=tmp_path / "new" / "out", **{**HERE, "classifier": kind, "time": "0.1s"})
    assert not (tmp_path / "new").exists()


def test_epochs_that_a_budget_pays_for(painted: Path):
    truth = torch.arange(1000) % 3
    images = TrainingImages(open_source(str(painted)), np.arange(1000), truth, ("a", "b", "c"), np.arange(0))
    clock = [0.0]
    limit = affordable.TimeLimit(10, 0.0, lambda: clock[0])
    pace, recipe = affordable.Pace(image=0.01, step=1.0), recipes.Recipe(0.01, 0.2, epochs=20)
    assert affordable.affordable_epochs(limit, pace, images, recipe, 50) == (600 * 0.97 - 3) // (50 + 2)
    clock[0] = 500
    assert affordable.affordable_epochs(limit, pace, images, recipe, 50) == 1
    assert affordable.affordable_epochs(limit, pace, images, recipe, 100) == 1
    clock[0] = 0
    assert affordable.affordable_epochs(limit, affordable.Pace(0, 1e-3), images, recipe, 50) == 100


def test_images_of_several_labels(weights, painted, tmp_path):
    rows = [
        {
            "name": f"{path.parent.name}/{path.name}",
            "labels": [path.parent.name, *(["warm"] * (path.parent.name == "red"))],
        }
        for path in sorted(painted.rglob("*.png"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    coterie.train(weights, painted, out=tmp_path / "out", labels=tmp_path / "labels.parquet", **HERE)
    kept = open_classifier(tmp_path / "out")
    assert kept.multi_label
    assert kept.classes == ("blue", "green", "red", "warm")
    found = embed_source(kept.model.network, open_source(str(painted)), kept.model.preprocessing, ON_CPU)
    chances = kept.probabilities(found.rows)
    torch.testing.assert_close(chances[:, 2], chances[:, 3])  # what is red is warm
    assert (chances[:, 0] + chances[:, 1] - 1).abs().max() > 1e-3  # no softmax
