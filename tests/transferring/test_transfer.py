"""The same head on new weights, on a MODEL and on others: the table, what is held out, and what is not done again."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.config.hardware import Runtime
from coterie.detection.from_options import boxed_images
from coterie.detection.train import DetectionWishes
from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.logger import NullLogger
from coterie.models.backbone import build_backbone
from coterie.segmentation.masks import open_masks
from coterie.segmentation.train import SegmentationWishes
from coterie.transferring.from_options import head_given
from coterie.transferring.heads import ClassifierHead, DetectorHead, SegmenterHead
from coterie.transferring.results import NEW, HeadResults
from tests.detection.conftest import HERE, TINY, drawn, weights  # noqa: F401
from tests.segmentation.conftest import draw as draw_masks

QUICK = {"epochs": 1, "batch_size": 4, "size": 64}


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    save_backbone(path, build_backbone(TINY, 64).eval(), TINY, 64, (0.3,) * 3, (0.2,) * 3)
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Six images of a bar or a square each, and their masks."""
    return draw_masks(tmp_path_factory.mktemp("shapes") / "drawn", 6)


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    """Class folders of ten dark and ten bright images."""
    folder, generator = tmp_path_factory.mktemp("colors") / "colors", np.random.default_rng(0)
    for number in range(20):
        kind = ("dark", "bright")[number % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 80, (32, 32, 3)) + 120 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number:02d}.png")
    return folder


def test_classifiers_of_every_network_and_seed(weights, other, colors, tmp_path, monkeypatch):  # noqa: F811
    out = tmp_path / "out"
    found = coterie.transfer(weights, colors, out=out, beside=[str(other)], seeds=1, classifier="knn", **HERE)
    assert list(found) == [NEW, str(weights), str(other)]
    assert all(len(row["top1"]) == 1 for row in found.values())
    assert all(0 <= value <= 100 for row in found.values() for value in row["top1"])
    kept = json.loads((out / "transfer.json").read_text())
    assert kept["summary"][NEW]["top1"]["mean"] == np.mean(found[NEW]["top1"])
    assert [each for each in str(found).splitlines() if each.startswith(NEW)]

    page = (out / "report.html").read_text()
    assert found.headline().partition(":")[2] in page.replace("&#43;", "+")
    assert page.count("<td>" + NEW) == 3  # means, and each figure of every seed

    before = {path: path.stat().st_mtime_ns for path in out.rglob("classifier.safetensors")}
    assert len(before) == 3
    measured = []
    measure = ClassifierHead.measure
    monkeypatch.setattr(
        ClassifierHead, "measure", lambda *given: measured.append(given[2]) or measure(*given)
    )  # counts, and measures
    again = coterie.transfer(weights, colors, out=out, beside=[str(other)], seeds=2, classifier="knn", **HERE)
    assert measured == [1, 1, 1]  # the second seed alone
    assert [values[:1] for values in (row["top1"] for row in again.values())] == [row["top1"] for row in found.values()]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    with pytest.raises(UserError, match=r"^.*was begun with kind knn, not linear[^\n]*$"):
        coterie.transfer(weights, colors, out=out, classifier="linear", **HERE)
    with pytest.raises(UserError, match=r"^new weights: weights, or how images are prepared, have changed[^\n]*$"):
        coterie.transfer(weights, colors, out=out, classifier="knn", size=48, **HERE)
    weights_of_other = other.read_bytes()
    other.write_bytes(weights.read_bytes())
    try:
        with pytest.raises(UserError, match=r"^\S+other.safetensors: weights, or how [^\n]*$"):
            coterie.transfer(weights, colors, out=out, beside=[str(other)], classifier="knn", **HERE)
    finally:
        other.write_bytes(weights_of_other)


def test_detectors(weights, drawn, tmp_path):  # noqa: F811
    boxes = drawn.with_suffix(".json")
    given = {"boxes": boxes, "out": tmp_path / "out", "seeds": 1, **QUICK, **HERE}
    found = coterie.transfer(weights, drawn, test=drawn, **given)
    assert found.keys() == {NEW, str(weights)}
    assert 0 <= found[NEW]["ap50"][0] <= 100
    assert re.search(r"AP50 \d+\.\d, [+-]\d+\.\d over new weights \(one seed\)", str(found))
    assert len(list((tmp_path / "out").rglob("detector.safetensors"))) == 2


def test_segmenters(weights, shapes, tmp_path):  # noqa: F811
    given = {"masks": shapes / "masks", "out": tmp_path / "out", "seeds": 1, "epochs": 1, "blocks": 1, **HERE}
    found = coterie.transfer(weights, shapes / "images", **given)
    assert found.keys() == {NEW, str(weights)}
    assert found[NEW].keys() == {"miou", "pixel_accuracy", "mean_accuracy"}
    assert all(0 <= value <= 100 for row in found.values() for values in row.values() for value in values)
    assert re.search(r"mIoU \d+\.\d, [+-]\d+\.\d over new weights \(one seed\)", str(found))
    assert "a segmenter (linear) of 6 images with masks of 3 classes; a fifth is held out by each seed" in str(found)
    kept = list((tmp_path / "out").rglob("segmenter.safetensors"))
    assert len(kept) == 2
    assert coterie.open_segmenter(kept[0]).about["images"] == "4"  # of five parts of six images the first has two
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert coterie.transfer(weights, shapes / "images", **given) == found
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    with pytest.raises(UserError, match=r"^.*was begun with kind linear, not fcn[^\n]*$"):
        coterie.transfer(weights, shapes / "images", **given, head="fcn")


def test_masks_of_test_images(shapes, tmp_path):
    """By default in the same folder; their values mean what those of the training masks mean."""
    other = draw_masks(tmp_path / "other", 2, seed=3)
    for path in (other / "masks").iterdir():  # one class is in no test mask
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 1)).save(path)
    given = {"masks": shapes / "masks", "test_masks": other / "masks", "device": "cpu", "workers": 0}
    head, _ = head_given(shapes / "images", other / "images", given, NullLogger())
    assert (len(head.masked.positions), len(head.test.positions)) == (6, 2)
    assert head.test.masks[0].path.parent == other / "masks"
    assert head.test.classes == head.masked.classes
    given = {"masks": shapes / "masks", "device": "cpu", "workers": 0}
    head, _ = head_given(shapes / "images" / "00.png", shapes / "images" / "02.png", given, NullLogger())
    assert [each.masks[0].path.name for each in (head.masked, head.test)] == ["00.png", "02.png"]


def test_five_seeds_hold_out_each_image_once(colors, drawn, shapes):  # noqa: F811
    source = coterie.open_source(str(colors))
    head = ClassifierHead(source, None, "linear")
    held = [head._split(seed) for seed in range(5)]
    assert sorted(test.name(place) for _, test in held for place in range(len(test))) == sorted(
        source.name(place) for place in range(len(source))
    )
    for train, test in held:
        names = [{part.name(place) for place in range(len(part))} for part in (train, test)]
        assert not names[0] & names[1]
        assert set(np.unique(test.labels)) == {0, 1}
    assert list(head._split(5)[1].positions) != list(held[0][1].positions)

    boxed, _ = boxed_images(drawn.with_suffix(".json"), drawn, {}, NullLogger())
    detector = DetectorHead(boxed, None, DetectionWishes())
    parts = [detector._split(seed) for seed in range(5)]
    assert sorted(place for _, test in parts for place in test.positions) == sorted(boxed.positions)
    assert all(not set(train.positions) & set(test.positions) for train, test in parts)
    assert all(len(test.positions) == len(test.file.images) for _, test in parts)

    source = coterie.open_source(str(shapes / "images"))
    masked = open_masks(shapes / "masks", None, source, NullLogger())
    segmenter = SegmenterHead(masked, None, SegmentationWishes())
    parts = [segmenter._split(seed) for seed in range(5)]
    assert sorted(place for _, test in parts for place in test.positions) == sorted(masked.positions)
    for train, test in parts:
        assert {source.name(place) for place in test.positions} == {each.path.name for each in test.masks}
        assert (train.counts + test.counts).tolist() == masked.counts.tolist()
    assert len({train.key for train, _ in parts}) == 5


def test_new_weights_are_those_of_the_seed(weights):  # noqa: F811
    from coterie.exporting.model import open_model
    from coterie.transferring.measure import _Row

    model, runtime = open_model(weights), Runtime()
    row, own = _Row(NEW, model, True), _Row("own", model, False)
    first, again, third = (row.opened(seed, runtime).network.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, third)
    with torch.no_grad():
        own.opened(0, runtime).network.conv1.weight.zero_()
    assert model.network.conv1.weight.any()  # a copy is trained


def test_the_table_says_means_deviations_and_paired_gains():
    figures = {NEW: {0: {"a": 50.0, "b": 1.0}, 1: {"a": 54.0, "b": 2.0}}, "m": {0: {"a": 60.0}, 1: {"a": 64.0}}}
    found = HeadResults({"a": "AP50"}, (0, 1), figures)
    assert found.gains == {"m": [10.0, 10.0]}
    assert found.tables()[0] == "m: AP50 62.0 ± 2.8, +10.0 ± 0.0 over new weights (2 seeds, ± their standard deviation)"
    assert found.tables()[2].rows == ((NEW, "52.0 ± 2.8", ""), ("m", "62.0 ± 2.8", "+10.0 ± 0.0"))
    assert found.summary()["m"]["a"] == {"mean": 62.0, "deviation": pytest.approx(8**0.5)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "name at least one set"),
        ({"seeds": 2}, "--seeds is for heads"),
        ({"boxes": "x.json"}, "--boxes is for heads"),
        ({"test": "more"}, "--test is for heads"),
        ({"out": "new", "seeds": 0}, "--seeds is 0"),
        ({"out": "new", "probes": ("svm",)}, "leave out --out"),
        ({"out": "new", "epochs": 3}, "--epochs is for detectors"),
        ({"masks": "x"}, "--masks is for heads"),
        ({"test_masks": "x"}, "--test-masks is for heads"),
        ({"out": "new", "test_boxes": "x.json"}, "--test-boxes is for detectors"),
        ({"out": "new", "test_masks": "x"}, "--test-masks is for segmenters: give --masks DIR too"),
        ({"out": "new", "head": "fcn"}, "--head is for segmenters: give --masks DIR too"),
        ({"out": "new", "blocks": 1}, "--blocks is for segmenters"),
        ({"out": "new", "classes": "voc"}, "--classes is for segmenters"),
        ({"out": "new", "boxes": "x.json", "head": "fcn"}, "--head is for segmenters, and --boxes trains a detector"),
        ({"out": "new", "boxes": "x.json", "masks": "x"}, "--masks is for segmenters, and --boxes trains a detector"),
        ({"out": "new", "masks": "x", "test_boxes": "x.json"}, "--test-boxes is not for segmenters"),
        ({"out": "new", "masks": "x", "test_masks": "y"}, "--test-masks are those of --test"),
        ({"out": "new", "masks": "x", "head": "fnc"}, "--head is fnc"),
        ({"out": "new", "masks": "x", "crop": 0.9}, "a segmenter sees the whole"),
        ({"out": "new", "boxes": "x.json", "classifier": "knn"}, "--classifier is for classifiers"),
        ({"out": "new", "label_fraction": "1%"}, "--label-fraction is for probes"),
        ({"out": "new", "classifier": "linaer"}, "did you mean linear"),
    ],
)
def test_mistakes_are_one_line_and_make_nothing(weights, colors, tmp_path, monkeypatch, given, said):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.transfer(weights, colors, **given, **HERE)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(weights, colors, tmp_path):  # noqa: F811
    (tmp_path / "config.toml").write_text("x = 1\n")
    with pytest.raises(UserError, match="holds something else"):
        coterie.transfer(weights, colors, out=tmp_path, **HERE)
    (tmp_path / "config.toml").unlink()
    (tmp_path / "transfer.json").write_text("{}")
    with pytest.raises(UserError, match=r"transfer.json is damaged"):
        coterie.transfer(weights, colors, out=tmp_path, **HERE)
