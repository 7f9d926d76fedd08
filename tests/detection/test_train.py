"""Training a detector, stopping it, and what is refused."""

import json
import signal
import tomllib

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import coterie
from coterie.data.sources.open import open_source
from coterie.detection.boxes import find_images
from coterie.detection.detector_training import DetectorTraining
from coterie.detection.training_images import training_batches
from coterie.detection.voc import read_boxes
from coterie.errors import UserError
from coterie.signals import Interrupted
from coterie.training import checkpoint_io
from tests.detection.conftest import HERE, draw


def options(drawn, **more):
    return {"boxes": drawn.with_suffix(".json"), "epochs": 6, "learning_rate": 0.02, **HERE} | more


def test_a_detector_learns_and_is_kept(trained, weights, drawn):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [9, 11]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {each.name for each in trained.iterdir()} == {
        ".lock",
        "config.toml",
        "detector.safetensors",
        "metrics.jsonl",
    }
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["chosen"]["steps"] == 12
    assert config["chosen"]["short_sides"] == [64]
    before = (trained / "detector.safetensors").stat().st_mtime_ns
    again = coterie.train(weights, drawn, out=trained, **options(drawn))
    assert "12 steps" in str(again)
    assert (trained / "detector.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("stop", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_goes_on_bit_by_bit(trained, weights, drawn, tmp_path, monkeypatch, stop):
    """A signal comes during a step: within a window of the log, and between two."""
    learn = DetectorTraining._learn

    def learning(self, batch):
        if self.done + 1 == stop:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, batch)

    again = tmp_path / "again"
    with monkeypatch.context() as patched:
        patched.setattr(DetectorTraining, "_learn", learning)
        with pytest.raises(Interrupted, match=f"saved after step {stop}: run the same command again"):
            coterie.train(weights, drawn, out=again, **options(drawn))
    assert not (again / "detector.safetensors").exists()
    whole = checkpoint_io.list_checkpoints(again / "checkpoint")
    assert [step for step, _ in whole] == [stop]
    (again / "checkpoint" / f"step-{stop + 1:09d}-{'0' * 16}.pt").write_bytes(b"damaged")
    with pytest.warns(coterie.CoterieWarning, match="is damaged"):
        coterie.train(weights, drawn, out=again, **options(drawn))
    one, other = (safetensors.torch.load_file(folder / "detector.safetensors") for folder in (trained, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (trained / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    assert not (again / "checkpoint").exists()


def test_threads_that_decode_change_nothing(drawn):
    boxed = find_images(read_boxes(drawn.with_suffix(".json")), open_source(str(drawn)))
    one, other = (list(training_batches(boxed, 3, 3, range(2, 8), 7, workers)) for workers in (0, 2))
    assert len(one) == len(other) == 6
    for first, second in zip(one, other, strict=True):
        assert all(map(torch.equal, first.images, second.images))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(first.targets, second.targets, strict=True))


def test_boxes_are_flipped_with_their_image(drawn):
    """Each image has one bright object: its pixels lie within its box, whichever way it was turned."""
    boxed = find_images(read_boxes(drawn.with_suffix(".json")), open_source(str(drawn)))
    seen = set()
    for batch in training_batches(boxed, 3, 8, range(2), 0, 0):
        for image, target in zip(batch.images, batch.targets, strict=True):
            left, top, right, bottom = target["boxes"][0].int().tolist()
            bright = (image.mean(dim=0) > 0.6).nonzero()
            assert [bright[:, 1].min(), bright[:, 0].min(), bright[:, 1].max() + 1, bright[:, 0].max() + 1] == [
                left,
                top,
                right,
                bottom,
            ]
            seen.add((left, right))
    assert len(seen) > 8  # the second pass turned some of the eight the other way


def test_new_weights_retinanet_and_a_time(drawn, tmp_path):
    said = coterie.train(
        "none",
        drawn,
        out=tmp_path / "new",
        **options(drawn, detector="retinanet", backbone="resnet10t", time="1s", epochs=None, size=64, batch_size=1),
    )
    assert str(said).startswith("a retinanet of 2 categories on a resnet10t: ")
    opened = coterie.open_detector(tmp_path / "new")
    assert opened.settings.short_sides == (64,)
    assert opened.settings.kind == "retinanet"


def test_images_that_cannot_be_used_are_listed(weights, tmp_path):
    drawn = draw(tmp_path / "drawn", 4)
    (drawn / "01.png").write_bytes(b"nothing")
    content = json.loads((tmp_path / "drawn.json").read_text())
    content["images"][2] |= {"width": 65}
    (tmp_path / "drawn.json").write_text(json.dumps(content))
    said = coterie.train(weights, drawn, out=tmp_path / "out", **options(drawn, epochs=1, batch_size=1))
    assert "2 images could not be used" in str(said)
    lines = (tmp_path / "out" / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["01.png", "02.png"]
    assert "64 x 64 pixels where its boxes are for 65 x 64" in lines[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"detector": "yolo"}, "--detector is yolo: use one of faster_rcnn, mask_rcnn, retinanet"),
        (
            {"schedule": "coco_3x"},
            "there is no schedule coco_3x: use one of small, voc, coco_1x, coco_2x; did you mean",
        ),
        ({"time": "1m"}, "--time and --epochs both say how long to train"),
        ({"size": 32}, "--size is 32: a detector needs images of 64 pixels or more"),
        ({"epochs": 0}, "--epochs is 0: it must be above 0"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0: it must be above 0"),
        ({"classifier": "knn"}, "--classifier is for classifiers"),
        ({"precision": "bfloat16"}, "--precision is bfloat16: a detector computes in float32"),
        ({"crop": 0.9}, "--crop is for networks that see a square of each image"),
    ],
)
def test_what_is_wrong_is_one_line(weights, drawn, tmp_path, more, said):
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.train(weights, drawn, out=tmp_path / "out", **options(drawn, **more))
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_wishes_need_another_folder(trained, weights, drawn, tmp_path):
    with pytest.raises(UserError, match="was begun with seed 0, not 1"):
        coterie.train(weights, drawn, out=trained, **options(drawn, seed=1))
    other = draw(tmp_path / "drawn", 8, seed=5)
    with pytest.raises(UserError, match="was begun with"):
        coterie.train(weights, other, out=trained, **options(other))


def test_options_of_detectors_need_boxes(weights, drawn, tmp_path):
    with pytest.raises(UserError, match="--schedule is for detectors"):
        coterie.train(weights, drawn, out=tmp_path / "out", schedule="voc", **HERE)
    with pytest.raises(UserError, match="MODEL none: name the network"):
        coterie.train("none", drawn, out=tmp_path / "out", **options(drawn))
    with pytest.raises(UserError, match="all have one pixel for 16"):
        coterie.train("none", drawn, out=tmp_path / "out", **options(drawn, backbone="vit_tiny_patch16_224"))
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused_in_one_line(weights, drawn, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^this command runs in one process: start it without torchrun$"):
        coterie.train(weights, drawn, out=tmp_path / "out", **options(drawn))
    assert not (tmp_path / "out").exists()


def test_nothing_in_the_file_is_pickled(trained):
    with safe_open(trained / "detector.safetensors", "pt") as opened:
        header = json.loads(opened.metadata()["coterie_detector"])
    assert header["categories"] == ["bar", "square"]
    assert header["numbers"] == [3, 4]
