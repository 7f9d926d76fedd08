"""Training a segmenter, stopping it, and what is refused."""

import json
import signal
import tomllib

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import coterie
from coterie.data.sources.open import open_source
from coterie.errors import UserError
from coterie.logger import NullLogger
from coterie.segmentation.masks import open_masks
from coterie.segmentation.network import SegmenterSettings
from coterie.segmentation.schedules import SegmentationSchedule
from coterie.segmentation.segmenter_training import SegmenterTraining
from coterie.segmentation.training_images import padded_labels, training_batches
from coterie.signals import Interrupted
from tests.segmentation.conftest import draw, options


def test_a_segmenter_learns_and_is_kept(trained, weights, drawn):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [9, 11]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {each.name for each in trained.iterdir()} >= {"config.toml", "segmenter.safetensors", "metrics.jsonl"}
    config = tomllib.loads((trained / "config.toml").read_text())
    assert (config["chosen"]["steps"], config["chosen"]["short_side"]) == (12, 64)
    before = (trained / "segmenter.safetensors").stat().st_mtime_ns
    assert "12 steps" in str(coterie.train(weights, drawn / "images", out=trained, **options(drawn)))
    assert (trained / "segmenter.safetensors").stat().st_mtime_ns == before


def test_the_network_under_a_linear_layer_stays_as_it_is(trained, weights):
    one, other = (safetensors.torch.load_file(each) for each in (weights, trained / "segmenter.safetensors"))
    assert all(torch.equal(one[name], other[f"network.{name}"]) for name in one)


@pytest.mark.parametrize(("head", "stop"), [("linear", 5), pytest.param("upernet", 10, marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_goes_on_bit_by_bit(weights, drawn, tmp_path, monkeypatch, head, stop):
    learn, wanted = SegmenterTraining._learn, options(drawn, head=head, blocks=None)

    def learning(self, batch):
        if self.done + 1 == stop:
            signal.raise_signal(signal.SIGTERM)
        return learn(self, batch)

    whole, again = tmp_path / "whole", tmp_path / "again"
    coterie.train(weights, drawn / "images", out=whole, **wanted)
    with monkeypatch.context() as patched:
        patched.setattr(SegmenterTraining, "_learn", learning)
        with pytest.raises(Interrupted, match=f"saved after step {stop}: run the same command again"):
            coterie.train(weights, drawn / "images", out=again, **wanted)
    assert not (again / "segmenter.safetensors").exists()
    coterie.train(weights, drawn / "images", out=again, **wanted)
    one, other = (safetensors.torch.load_file(folder / "segmenter.safetensors") for folder in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole / "metrics.jsonl").read_text() == (again / "metrics.jsonl").read_text()
    assert not (again / "checkpoint").exists()


def batches(drawn, schedule, side=48, workers=0, steps=range(3)):
    masked = open_masks(drawn / "masks", None, open_source(str(drawn / "images")), NullLogger())
    settings = SegmenterSettings(short_side=side)
    return list(training_batches(masked, 3, settings, schedule, steps, 7, workers))


def test_threads_that_decode_change_nothing(drawn):
    schedule = SegmentationSchedule("linear", batch_size=3, scales=(0.5, 2.0), crop=(40, 40))
    one, other = (batches(drawn, schedule, workers=workers, steps=range(2, 6)) for workers in (0, 2))
    for first, second in zip(one, other, strict=True):
        assert all(map(torch.equal, first.images, second.images))
        assert all(map(torch.equal, first.labels, second.labels))


def test_masks_are_enlarged_cropped_and_flipped_with_their_image(drawn):
    """The object is brighter than the ground, so that its pixels are known from the image."""
    schedule = SegmentationSchedule("linear", batch_size=8, scales=(1.0, 2.0), crop=(60, 60))
    sizes = set()
    for batch in batches(drawn, schedule, side=40):
        for image, labels in zip(batch.images, batch.labels, strict=True):
            assert image.shape[1:] == labels.shape
            agree = (image.mean(dim=0) > 0.29) == (labels > 0)
            assert agree.float().mean() > 0.93  # but for the edge, which is blurred in the image
            sizes.add(tuple(labels.shape))
    assert max(sizes) == (60, 60)
    assert len(sizes) > 5


def test_labels_beyond_an_image_are_ignored():
    padded = padded_labels([torch.ones(2, 3, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8)], (2, 4))
    assert padded.tolist() == [[[1, 1, 1, 255]] * 2, [[0, 255, 255, 255], [255] * 4]]


def test_ignored_pixels_teach_nothing(tmp_path):
    """Of two trainings, of which one has other classes where 255 stands, the loss is the same: only the others count."""
    folder, losses = draw(tmp_path / "drawn", 2, values=(0, 1, 255)), []
    for value in (255, 7):
        (folder / "names.json").write_text(json.dumps({"0": "ground", "1": "bar", str(value): None}))
        mask = np.asarray(Image.open(folder / "masks" / "01.png")).copy()
        mask[mask > 1] = value
        Image.fromarray(mask).save(folder / "masks" / "01.png")
        out = tmp_path / str(value)
        settings = options(folder, classes=folder / "names.json", epochs=3, backbone="resnet10t")
        losses.append(coterie.train("none", folder / "images", out=out, **settings).losses)
    assert losses[0] == losses[1]


def test_new_weights_an_fcn_and_a_time(drawn, tmp_path):
    wanted = options(drawn, head="fcn", backbone="resnet10t", time="1s", epochs=None, blocks=None, batch_size=1)
    said = coterie.train("none", drawn / "images", out=tmp_path / "new", **wanted)
    assert str(said).startswith("a segmenter (fcn) of 3 classes on a resnet10t: ")
    assert coterie.open_segmenter(tmp_path / "new").settings.short_side == 64


def test_images_that_cannot_be_used_are_listed(weights, tmp_path):
    folder = draw(tmp_path / "drawn", 4)
    (folder / "images" / "01.png").write_bytes(b"nothing")
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(folder / "masks" / "02.png")
    said = coterie.train(weights, folder / "images", out=tmp_path / "out", **options(folder, epochs=1, batch_size=1))
    assert "2 images could not be used" in str(said)
    lines = (tmp_path / "out" / "bad_images.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["01.png", "02.png"]
    assert "48 x 48 pixels where its mask has 48 x 40" in lines[1]


def test_classes_without_a_pixel_are_said(weights, drawn, tmp_path):
    (tmp_path / "names.txt").write_text("ground\nbar\nsquare\ndisc\n")
    with pytest.warns(coterie.CoterieWarning, match="there is no pixel of disc, which will not be found"):
        coterie.train(
            weights, drawn / "images", out=tmp_path / "out", **options(drawn, classes=tmp_path / "names.txt", epochs=1)
        )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"head": "deeplab"}, "--head is deeplab: use linear, fcn, upernet"),
        ({"schedule": "fcn_vok"}, "there is no schedule fcn_vok: use one of small, linear_ade20k, fcn_voc"),
        ({"schedule": "fcn_voc", "head": "linear"}, "--schedule fcn_voc is for --head fcn, not linear"),
        ({"time": "1m"}, "--time and --epochs both say how long to train"),
        ({"size": 32}, "--size is 32: a segmenter needs images of 64 pixels or more"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0: it must be above 0"),
        ({"boxes": "a.json", "masks": "masks"}, "--masks is for segmenters, and --boxes trains a detector"),
        ({"classifier": "knn"}, "--classifier is not for segmenters"),
        ({"precision": "bfloat16"}, "--precision is bfloat16: a segmenter computes in float32"),
        (
            {"classes": "coco"},
            "--classes is coco: name a .txt or .json file of class names, or voc, cityscapes, ade20k",
        ),
        ({"blocks": 9}, "--blocks names map 9: this ResNet has 5"),
        ({"masks": "nowhere"}, "nowhere does not exist: name the folder of the masks"),
        ({"masks": None, "head": "fcn"}, "--head is for segmenters: give --masks DIR too"),
        ({"masks": None, "blocks": None}, "is for detectors and segmenters: give --boxes FILE or --masks DIR too"),
    ],
)
def test_what_is_wrong_is_one_line(weights, drawn, tmp_path, more, said):
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.train(weights, drawn / "images", out=tmp_path / "out", **options(drawn, **more))
    assert said in str(caught.value)
    assert not (tmp_path / "out" / "segmenter.safetensors").exists()


def test_other_masks_need_another_folder(trained, weights, drawn, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for each in (drawn / "masks").iterdir():
        (masks / each.name).write_bytes(each.read_bytes())
    with pytest.raises(UserError, match="was begun with masks"):
        coterie.train(weights, drawn / "images", out=trained, **options(drawn, masks=masks))
    with pytest.raises(UserError, match="was begun with seed 0, not 1"):
        coterie.train(weights, drawn / "images", out=trained, **options(drawn, seed=1))
