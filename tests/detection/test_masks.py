"""Mask R-CNN: masks of COCO files, checked, drawn, flipped, trained on, found and compared as pycocotools does it."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

import coterie
from coterie.data.sources.open import open_source
from coterie.detection.average_precision import average_precision
from coterie.detection.boxes import find_images
from coterie.detection.coco import read_coco
from coterie.detection.detect import Detections
from coterie.detection.masks import check_masks, draw_masks, pack_map
from coterie.detection.training_images import training_batches
from coterie.errors import UserError
from tests.detection.conftest import HERE, draw

pycocotools = pytest.importorskip("pycocotools")
SIDE = 64


def with_masks(folder: Path, change=lambda place, annotation: None) -> Path:
    """The images of ``draw`` with the mask of each object, in the three forms of COCO; returns the file."""
    file = folder.parent / f"{folder.name}.json"
    content = json.loads(file.read_text())
    for place, each in enumerate(content["annotations"]):
        left, top, width, height = each["bbox"]
        right, bottom = left + width, top + height
        bitmap = np.zeros((SIDE, SIDE), dtype=bool)
        bitmap[top:bottom, left:right] = True
        flat = bitmap.ravel(order="F")
        edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
        forms = (
            [[left, top, right, top, right, bottom, left, bottom]],
            {"size": [SIDE, SIDE], "counts": [0] * int(flat[0]) + np.diff(edges).tolist()},
            pack_map(bitmap),
        )
        each["segmentation"] = forms[place % 3]
        change(place, each)
    file.write_text(json.dumps(content))
    return file


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    folder = draw(tmp_path_factory.mktemp("masks") / "masked", 8)
    with_masks(folder)
    return folder


@pytest.fixture(scope="module")
def trained(weights: Path, masked: Path, tmp_path_factory) -> Path:
    """The folder of a Mask R-CNN that was trained for a moment."""
    out = tmp_path_factory.mktemp("mask_rcnn") / "shapes"
    asked = {"boxes": masked.with_suffix(".json"), "detector": "mask_rcnn", "epochs": 2, "learning_rate": 0.02}
    coterie.train(weights, masked, out=out, **asked, **HERE)
    return out


def test_each_form_is_drawn_as_its_box_says(masked):
    file = read_coco(masked.with_suffix(".json"), masks=True)
    check_masks(file)
    for image in file.images:
        left, top, right, bottom = image.boxes[0].astype(int)
        expected = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
        expected[0, top:bottom, left:right] = 1
        assert np.array_equal(draw_masks(image), expected)
    assert not read_coco(masked.with_suffix(".json")).images[0].masks  # they are not kept where nobody asks


def test_masks_are_flipped_with_their_image(masked):
    boxed = find_images(read_coco(masked.with_suffix(".json"), masks=True), open_source(str(masked)))
    seen = set()
    for batch in training_batches(boxed, 3, 8, range(2), 0, 0, masks=True):
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert ((image.mean(dim=0) > 0.6) == target["masks"][0].bool()).all()
            seen.add(tuple(target["boxes"][0].tolist()))
    assert len(seen) > 8  # some of the second pass are the other way round


def test_a_mask_rcnn_is_kept_finds_masks_and_is_measured(trained, masked, tmp_path):
    assert coterie.open_detector(trained).settings.kind == "mask_rcnn"
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss_mask"] > 0 for line in lines)
    coterie.predict(trained, masked, tmp_path / "found.json", **HERE)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found
    assert all(each["segmentation"]["size"] == [SIDE, SIDE] for each in found)
    figures = coterie.evaluate(trained, masked, boxes=masked.with_suffix(".json"), **HERE)
    assert {"map", "mask_map", "mask_ap50", "mask_ap75"} <= set(figures["detector"])
    assert "AP50 of masks" in str(figures)


def test_without_masks_boxes_alone_are_measured(trained, drawn):
    with pytest.warns(coterie.CoterieWarning, match="not all of its objects have a segmentation: boxes are compared"):
        figures = coterie.evaluate(trained, drawn, boxes=drawn.with_suffix(".json"), **HERE)
    assert "mask_map" not in figures["detector"]


def test_equal_to_pycocotools_on_the_same_files(masked, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = read_coco(masked.with_suffix(".json"), masks=True)
    generator = np.random.default_rng(3)
    detections, results = [], []
    for place, image in enumerate(file.images):
        masks, scores, labels = [], generator.random(6).round(4), generator.integers(0, 2, 6)
        for score, label in zip(scores, labels, strict=True):
            bitmap = np.roll(draw_masks(image)[0], generator.integers(-6, 7, 2), (0, 1)).astype(bool)
            bitmap &= generator.random((SIDE, SIDE)) < 0.95
            masks.append(pack_map(bitmap))
            results.append({"image_id": image.number, "category_id": file.numbers[label], "score": float(score)})
            results[-1]["segmentation"] = masks[-1]
        edges = np.zeros((6, 4))
        detections.append(Detections(place, (SIDE, SIDE), edges, labels, scores, tuple(masks)))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(masked.with_suffix(".json")))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = average_precision(file.images, detections, 2, masks=True)
    assert 1 < ours.figures["map"] < 99
    for name, place in {"map": 0, "ap50": 1, "ap75": 2, "map_small": 3, "recall_100": 8}.items():
        assert ours.figures[name] == 100 * evaluation.stats[place], name


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (
            [],
            "02.png has an object without segmentation: a Mask R-CNN needs the mask of each; use --detector faster_rcnn",
        ),
        ([[1, 2, 3, 4]], "is no list of polygons: give x, y of three points or more for each"),
        ([[1, 2, 3, 4, 5, float("nan")]], "is no list of polygons"),
        ([7], "is no list of polygons"),
        ({"size": [SIDE, 1], "counts": [64]}, "has the size [64, 1], and the image [64, 64] (height, width)"),
        ({"size": [SIDE, SIDE], "counts": [5]}, "does not have as many pixels as its image"),
        ({"size": [SIDE, SIDE], "counts": [-5, 4101]}, "does not have as many pixels as its image"),
        ({"size": [SIDE, SIDE], "counts": "zzz"}, "is no run of pixels that pycocotools can read"),
        ({"size": [SIDE, SIDE], "counts": "11"}, "is no run of pixels that pycocotools can read"),
        ("all", "has the size None"),
    ],
)
def test_a_mask_that_cannot_be_drawn_is_one_line(weights, tmp_path, mask, said):
    folder = draw(tmp_path / "drawn", 3)
    boxes = with_masks(folder, lambda place, each: each.update(segmentation=mask) if place == 2 else None)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.train(weights, folder, out=tmp_path / "out", boxes=boxes, detector="mask_rcnn", **HERE)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()
