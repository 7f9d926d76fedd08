import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import coterie
from coterie.classifier.classifier_file import open_classifier
from coterie.config.hardware import ON_CPU
from coterie.data.sources.open import open_source
from coterie.embedding.embed import embed_source
from tests.classifier.conftest import paint

HERE = {"quiet": True, "device": "cpu", "workers": 0}


def test_a_classifier_is_kept_with_all_that_was_chosen(trained: Path, painted: Path):
    kept = open_classifier(trained)
    assert kept.classes == ("blue", "green", "red")
    found = embed_source(kept.model.network, open_source(str(painted)), kept.model.preprocessing, ON_CPU)
    assert torch.equal(kept.probabilities(found.rows).argmax(dim=1), found.labels)
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["classifier"]["kind"] == "linear"
    assert "8 labeled images a class" in config["chosen"]["reason"]
    assert kept.temperature == config["chosen"]["temperature"]
    assert kept.threshold == config["chosen"]["threshold"]
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert min(line["log_loss"] for line in lines[:-1]) < 0.2
    assert lines[-1]["chosen"] in {line["candidate"] for line in lines[:-1]}
    images = pq.read_table(trained / "images.parquet").to_pylist()
    assert len(images) == 24
    assert sum(each["held_out_answer"] == each["label"] for each in images) >= 23
    page = (trained / "report.html").read_text()
    assert "Confusion matrix" in page
    assert "What to label next" in page


def test_the_same_command_again_embeds_nothing(
    trained: Path, painted: Path, weights: Path, monkeypatch, tmp_path: Path
):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "classifier.safetensors").unlink()  # as if it had been stopped
    monkeypatch.setattr("coterie.classifier.features.embed_source", None)
    coterie.train(weights, painted, out=copy, **HERE)
    before, after = (open_classifier(each) for each in (trained, copy))
    assert torch.equal(before.head.weight, after.head.weight)
    assert before.temperature == after.temperature


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier": "knn"}, "begun with kind linear, not knn"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"crop": 0.5}, "prepro"),
    ],
)
def test_another_question_needs_another_folder(options, message, trained: Path, painted: Path, weights: Path):
    with pytest.raises(coterie.UserError, match=message):
        coterie.train(weights, painted, out=trained, **HERE, **options)


def test_images_that_changed_are_refused(trained: Path, weights: Path, tmp_path: Path, painted: Path):
    copy, images = shutil.copytree(trained, tmp_path / "copy"), shutil.copytree(painted, tmp_path / "painted")
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(str(painted), str(images)))
    with pytest.raises(coterie.UserError, match="the images of LABELED have changed since"):
        coterie.train(weights, images, out=copy, **HERE)


def test_a_run_is_not_overwritten(weights: Path, painted: Path, tmp_path: Path):
    (tmp_path / "config.toml").write_text("epochs = 3\n")
    with pytest.raises(coterie.UserError, match="is a run, not a classifier"):
        coterie.train(weights, painted, out=tmp_path, **HERE)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda path, images: coterie.pretrain("swav", images, out=path, quiet=True), "classifier, not a run: choose"),
        (
            lambda path, images: coterie.plan("swav", images, start_from=path, quiet=True),
            "is a classifier, not a MODEL",
        ),
        (lambda path, images: coterie.train(path, images, out=path / "new", **HERE), "is a classifier, not a MODEL"),
        (
            lambda path, images: coterie.embed(path, images, path / "rows.parquet", quiet=True),
            "is a classifier, not a run",
        ),
        (lambda path, _: coterie.report(path, quiet=True), "is a classifier, not a run"),
        (lambda path, _: coterie.select(path), "is a classifier, not a run"),
    ],
    ids=["pretrain", "start-from", "train", "embed", "report", "select"],
)
def test_a_classifier_where_something_else_is_meant(use, message, trained: Path, painted: Path):
    before = sorted(trained.rglob("*"))
    with pytest.raises(coterie.UserError, match=message):
        use(trained, painted)
    assert sorted(trained.rglob("*")) == before


def test_a_mistake_leaves_no_folder(weights: Path, tmp_path: Path):
    (tmp_path / "none").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "none" / "a.png")
    with pytest.raises(coterie.UserError, match="LABELED has no labels"):
        coterie.train(weights, tmp_path / "none", out=tmp_path / "new" / "out", **HERE)
    assert not (tmp_path / "new").exists()
    with pytest.raises(coterie.UserError, match=r"--classifier is tree: use one of knn, linear"):
        coterie.train(weights, paint(tmp_path / "more", 2), out=tmp_path / "new" / "out", classifier="tree", **HERE)


def test_one_image_a_class_is_decided_by_the_nearest(weights: Path, tmp_path: Path):
    figures = coterie.train(weights, paint(tmp_path / "few", 1), out=tmp_path / "out", **HERE)
    assert "nothing could be tested" in str(figures)
    assert any("3 classes have one image only" in line for line in figures.remarks)
    assert open_classifier(tmp_path / "out").about["kind"] == "knn"


def test_images_of_several_labels_and_of_none(weights: Path, tmp_path: Path):
    painted, names = paint(tmp_path / "images", 6), []
    flat = tmp_path / "flat"
    flat.mkdir()
    for each in sorted(painted.rglob("*.png")):
        name = f"{each.parent.name}-{each.name}"
        shutil.move(each, flat / name)
        warm = "warm red" if each.parent.name == "red" else each.parent.name
        names.append((name, warm.split()))
    labels = [each if number % 6 else None for number, (_, each) in enumerate(names)]
    pq.write_table(pa.table({"name": [name for name, _ in names], "labels": labels}), tmp_path / "labels.parquet")
    options = {"labels": tmp_path / "labels.parquet", **HERE}
    figures = coterie.train(weights, flat, out=tmp_path / "out", classifier="knn", **options)
    kept = open_classifier(tmp_path / "out")
    assert kept.multi_label
    assert kept.classes == ("blue", "green", "red", "warm")
    assert figures.answers.accuracy().value > 90
    assert "labels an image" not in str(figures.headline)
    assert any("3 of 18 images of LABELED have no label" in line for line in figures.remarks)
    found = coterie.evaluate(tmp_path / "out", flat, **options)
    assert found["classifier"]["top1"] > 90


def test_evaluate_judges_a_classifier_on_other_labels(trained: Path, tmp_path: Path, weights: Path):
    other = paint(tmp_path / "other", 4, seed=5)
    generator = np.random.default_rng(0)
    (other / "noise").mkdir()
    for number in range(3):
        Image.fromarray(generator.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(other / "noise" / f"{number}.png")
    found = coterie.evaluate(trained, other, **HERE)
    assert found["classifier"]["top1"] == 100
    assert "3 images are of classes that the classifier does not know" in str(found)
    assert len(found.figures.positions) == 12
    for options, message in (
        ({"size": 32}, "leave out --size"),
        ({"test": other}, "without --test"),
        ({"backbone": "resnet18"}, "leave out --backbone"),
    ):
        with pytest.raises(coterie.UserError, match=message):
            coterie.evaluate(trained, other, **HERE, **options)
    alone = tmp_path / "alone"
    shutil.copytree(other / "noise", alone / "noise")
    shutil.copytree(other / "noise", alone / "more")
    with pytest.raises(coterie.UserError, match="no class that the classifier knows: it knows blue, green, red"):
        coterie.evaluate(trained, alone, **HERE)


def test_evaluate_counts_the_images_that_it_was_trained_on(trained: Path, painted: Path):
    assert "24 of 24 images are among those that it was trained on" in str(coterie.evaluate(trained, painted, **HERE))
