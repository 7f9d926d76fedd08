"""Average precision: pycocotools' own figures, equal to what it computes from the same files, and to a case by hand."""

import contextlib
import io
import json

import numpy as np
import pytest

from coterie.detection.average_precision import average_precision
from coterie.detection.detect import Detections
from coterie.detection.voc import read_boxes

pytest.importorskip("pycocotools")


def found(position, *rows):
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(position, (64, 64), values[:, :4], values[:, 4].astype(np.int64), values[:, 5])


def test_equal_to_pycocotools_on_the_same_files(drawn, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = read_boxes(drawn.with_suffix(".json"))
    generator = np.random.default_rng(3)
    detections, results = [], []
    for place, image in enumerate(file.images):
        rows = []
        for label in range(2):
            for score in generator.random(4).round(4):
                edges = image.boxes[0] + generator.normal(0, 4, 4)
                rows.append((*edges, label, score))
                left, top, right, bottom = edges
                results.append(
                    {
                        "image_id": image.number,
                        "category_id": file.numbers[label],
                        "bbox": [left, top, right - left, bottom - top],
                        "score": score,
                    }
                )
        detections.append(found(place, *rows))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(drawn.with_suffix(".json")))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = average_precision(file.images, detections, 2)
    theirs = 100 * evaluation.stats
    assert 1 < ours.figures["map"] < 99
    for name, place in {"map": 0, "ap50": 1, "ap75": 2, "map_small": 3, "recall_100": 8}.items():
        assert ours.figures[name] == theirs[place], name
    assert "map_large" not in ours.figures  # no object is large
    assert np.mean([mean for mean, _ in ours.of_categories.values()]) == pytest.approx(ours.figures["map"], abs=1e-9)


def test_a_case_by_hand(drawn):
    """Two bars: the surest detection is right, the next is wrong, the third is right: precision 1 up to half of the recall,
    two thirds up to all of it, at 101 recalls."""
    images = [each for each in read_boxes(drawn.with_suffix(".json")).images if each.labels[0] == 0][:2]
    detections = [
        found(0, (*images[0].boxes[0], 0, 0.9), (0, 0, 5, 5, 0, 0.8)),
        found(1, (*images[1].boxes[0], 0, 0.7)),
    ]
    precision = average_precision(images, detections, 2)
    by_hand = 100 * (51 * 1 + 50 * 2 / 3) / 101
    assert precision.figures["ap50"] == pytest.approx(by_hand, abs=1e-9)
    assert precision.of_categories == {0: pytest.approx((by_hand, by_hand))}


def test_nothing_found_is_zero(drawn):
    images = read_boxes(drawn.with_suffix(".json")).images
    precision = average_precision(images, [found(place) for place in range(8)], 2)
    assert precision.figures["map"] == precision.figures["ap50"] == 0
