"""Using a detector that is kept: its file, its results, its page, its figures, and what it is not."""

import json

import numpy as np
import pytest
import tifffile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import coterie
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.open import open_source
from coterie.errors import UserError
from coterie.reporting.detection_page import BoxedPicture, write_detection_page
from tests.detection.conftest import HERE, draw


def test_the_file_alone_is_enough(trained, drawn, tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes((trained / "detector.safetensors").read_bytes())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (coterie.open_detector(each) for each in (trained, tmp_path / "elsewhere.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.categories, one.numbers) == (("bar", "square"), (3, 4))
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        first, second = (each.network([image])[0] for each in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def rewritten(trained, tmp_path, change):
    file = trained / "detector.safetensors"
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["coterie_detector"])
    change(header)
    save_file(load_file(file), tmp_path / "changed.safetensors", {"coterie_detector": json.dumps(header)})
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["settings"].update(hidden=60_000), "are damaged"),
        (lambda h: h["settings"].update(width=60_000), "are damaged"),
        (lambda h: h["settings"].update(kind="retinanet"), "are damaged"),
        (lambda h: h["settings"].update(kind="yolo"), "another version"),
        (lambda h: h["settings"].update(width=2**40), "another version"),
        (lambda h: h["settings"].update(more=1), "another version"),
        (lambda h: h["settings"].update(short_sides=[]), "another version"),
        (lambda h: h.update(categories=["bar", "square", "third"], numbers=[1, 2, 3]), "are damaged"),
        (lambda h: h.update(categories=["bar", "bar"]), "another version"),
        (lambda h: h.update(numbers=[1]), "another version"),
        (lambda h: h["backbone"]["backbone"].update(width=0.5), "damaged"),
        (lambda h: h.pop("about"), "another version"),
    ],
)
def test_a_header_that_anyone_may_have_written_is_checked(trained, tmp_path, change, said):
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.open_detector(rewritten(trained, tmp_path, change))
    assert said in str(caught.value)


def test_predictions_are_coco_results_and_a_page(trained, drawn, tmp_path):
    assert coterie.predict(trained, drawn, tmp_path / "found.json", **HERE) == 8
    found = json.loads((tmp_path / "found.json").read_text())
    assert {each["image_id"] for each in found} <= set(range(1, 9))
    first = found[0]
    assert first.keys() == {"image_id", "category_id", "bbox", "score", "file_name", "category"}
    assert {(each["category_id"], each["category"]) for each in found} <= {(3, "bar"), (4, "square")}
    left, top, width, height = first["bbox"]
    assert min(left, top) >= 0
    assert left + width <= 64.01
    assert top + height <= 64.01
    page = (tmp_path / "found.html").read_text()
    assert page.count("<figure") == 8
    assert "00.png" in page
    images = {"images": json.loads(drawn.with_suffix(".json").read_text())["images"]}
    (tmp_path / "images.json").write_text(json.dumps(images))
    coterie.predict(trained, drawn, tmp_path / "ids.json", boxes=tmp_path / "images.json", **HERE)
    with_ids = json.loads((tmp_path / "ids.json").read_text())
    assert [each | {"image_id": each["image_id"] - 9} for each in with_ids] == found


def test_boxes_on_the_page(tmp_path):
    source = Arrays(np.full((1, 20, 30, 3), 100, dtype=np.uint8), names=["a<b"])
    found = BoxedPicture(0, np.array([[1.0, 2, 11, 8], [0, 0, 5, 5]]), ["<bar>", "square"], np.array([0.9, 0.4]))
    write_detection_page(tmp_path / "page.html", "title", source, [found], ("<bar>", "square"), {"model": "m"})
    page = (tmp_path / "page.html").read_text()
    assert '<rect class="k0" x="1.0" y="2.0" width="10.0" height="6.0"><title>&lt;bar&gt; 90 %</title></rect>' in page
    assert page.count("<rect") == 1  # the other is not sure
    assert "1 objects in 1 images" in page


def test_pictures_on_the_page_of_any_values_and_channels(tmp_path):
    """Numbers of a known range, and images of two channels, whose first is shown."""
    nothing = BoxedPicture(0, np.zeros((0, 4)), [], np.zeros(0))
    for number, pixels in enumerate((np.zeros((20, 30), dtype=np.float32), np.zeros((20, 30, 2), dtype=np.uint8))):
        folder, page = tmp_path / str(number), tmp_path / f"{number}.html"
        folder.mkdir()
        tifffile.imwrite(folder / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
        source = open_source(str(folder))
        write_detection_page(page, "title", source, [nothing], ("bar",), {"model": "m"}, (-5.0, 5.0))
        assert page.read_text().count("<figure") == 1


def test_figures_on_other_images(trained, tmp_path):
    pytest.importorskip("pycocotools")
    drawn = draw(tmp_path / "other", 6, seed=9)
    found = coterie.evaluate(trained, drawn, boxes=tmp_path / "other.json", **HERE)
    assert set(found["detector"]) >= {"map", "ap50", "ap75"}
    assert 0 <= found["detector"]["map"] <= found["detector"]["ap50"] <= 100
    assert "of 6 boxes in 6 images" in str(found)
    assert json.loads((trained / "evaluation.json").read_text())["detector"] == found["detector"]
    content = json.loads((tmp_path / "other.json").read_text())
    content["categories"] = [{"id": 4, "name": "bar"}, {"id": 3, "name": "disc"}]  # matched by name, not by number
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.warns(
        coterie.CoterieWarning, match=r"3 boxes are of categories that the detector does not know \(disc\)"
    ):
        found = coterie.evaluate(trained, drawn, boxes=tmp_path / "other.json", **HERE)
    assert "of 3 boxes in 6 images" in str(found)


def test_a_detector_is_no_model_no_classifier_and_no_run(trained, weights, drawn, tmp_path):
    boxes = drawn.with_suffix(".json")
    for call, said in (
        (lambda: coterie.embed(trained, drawn, tmp_path / "a.parquet", **HERE), "is a detector, not a"),
        (lambda: coterie.report(trained), "is a detector, not a run"),
        (
            lambda: coterie.export(trained, out=tmp_path / "a", format="timm"),
            "a detector is exported as onnx",
        ),
        (lambda: coterie.evaluate(trained, drawn, **HERE), "give the boxes of the images"),
        (lambda: coterie.evaluate(trained, drawn, boxes=boxes, size=32, **HERE), "leave out --size"),
        (lambda: coterie.evaluate(weights, drawn, boxes=boxes, **HERE), "--boxes is for a detector"),
        (lambda: coterie.predict(trained, drawn, tmp_path / "a.csv", **HERE), "name a file that ends in .json"),
        (lambda: coterie.predict(trained, drawn, tmp_path / "a.json", sort_into=tmp_path / "s", **HERE), "--sort-into"),
        (lambda: coterie.open_detector(weights), "is no detector"),
        (lambda: coterie.open_detector(tmp_path / "nothing"), "does not exist"),
    ):
        with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
            call()
        assert said in str(caught.value)
