"""Using a segmenter that is kept: its file, its masks, its page, its figures, and what it is not."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import coterie
from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.models.backbone import build_backbone
from coterie.reporting.segmentation_page import MaskedPicture, write_segmentation_page
from coterie.segmentation.predict import file_names
from tests.segmentation.conftest import HERE, TINY, draw, options


def test_the_file_alone_is_enough(trained, tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes((trained / "segmenter.safetensors").read_bytes())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (coterie.open_segmenter(each) for each in (trained, tmp_path / "elsewhere.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.classes.names, one.classes.values) == (("ground", "bar", "square"), (0, 1, 2))
    image = torch.rand(3, 48, 60)
    with torch.no_grad():
        assert torch.equal(one.network([image]), other.network([image]))


def rewritten(trained, tmp_path, change):
    file = trained / "segmenter.safetensors"
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["coterie_segmenter"])
    change(header)
    save_file(load_file(file), tmp_path / "changed.safetensors", {"coterie_segmenter": json.dumps(header)})
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h["settings"].update(width=10**6), "another version"),
        (lambda h: h["settings"].update(head="upernet"), "damaged"),
        (lambda h: h["settings"].update(blocks=[4]), "damaged"),
        (lambda h: h["classes"]["values"].append(7), "another version"),
        (lambda h: h["classes"].update(values=[0, 1, 255]), "another version"),  # 255 is ignored too
        (lambda h: h["classes"].update(names=["a", "b"], values=[0, 1]), "damaged"),
        (lambda h: h.pop("about"), "another version"),
    ],
)
def test_a_header_that_anyone_may_have_written_is_checked(trained, tmp_path, change, said):
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.open_segmenter(rewritten(trained, tmp_path, change))
    assert said in str(caught.value)


def test_predictions_are_masks_overlays_and_a_page(trained, drawn, tmp_path):
    """Masks have the size of their image, and are read as masks again; an image of another size than the others is one too."""
    images = tmp_path / "images"
    images.mkdir()
    for each in (drawn / "images").iterdir():
        (images / each.name).write_bytes(each.read_bytes())
    with Image.open(images / "07.png") as picture:
        larger = picture.resize((70, 50))
    larger.save(images / "07.png")
    out = tmp_path / "out"
    assert coterie.predict(trained, images, out, **HERE) == 8
    with Image.open(out / "masks" / "07.png") as mask, Image.open(out / "overlays" / "07.jpg") as drawn_over:
        assert (mask.mode, mask.size, drawn_over.size) == ("P", (70, 50), (70, 50))
        assert set(np.unique(np.asarray(mask)).tolist()) <= {0, 1, 2}
    page = (out / "report.html").read_text()
    assert page.count("<figure") == 8
    assert "07.png" in page
    found = coterie.evaluate(trained, images, masks=out / "masks", **HERE)
    assert found["segmenter"]["miou"] == 100  # of itself, read as it was written
    before = (out / "masks" / "07.png").stat().st_mtime_ns
    (out / "masks" / "00.png").unlink()
    assert coterie.predict(trained, images, out, **HERE) == 8
    assert (out / "masks" / "00.png").is_file()
    assert (out / "masks" / "07.png").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds masks of another segmenter or of other images"):
        coterie.predict(trained, drawn / "images", out, **HERE)


def test_floating_point_images_are_scaled_as_the_network_was_trained_with(drawn, tmp_path):
    """The same images in 16 bits and as numbers from -5 to 5: the same training, masks and pictures."""
    torch.manual_seed(1)
    weights, network = tmp_path / "model.safetensors", build_backbone(TINY, 64).eval()
    save_backbone(weights, network, TINY, 64, (0.3,) * 3, (0.2,) * 3, value_range=(-5.0, 5.0))
    said, pages = [], []
    for kind in ("deep", "float"):
        images, out = tmp_path / kind, tmp_path / f"{kind}-masks"
        images.mkdir()
        for each in sorted((drawn / "images").iterdir())[:4]:
            pixels = np.asarray(Image.open(each).convert("L")).astype(np.uint16) * 257
            stored = pixels if kind == "deep" else (pixels / 65535 * 10 - 5).astype(np.float32)
            tifffile.imwrite(images / f"{each.stem}.tif", stored)
        with pytest.warns(coterie.CoterieWarning, match="4 of the masks have no image"):
            said.append(
                coterie.train(weights, images, out=tmp_path / f"{kind}-kept", **options(drawn, epochs=2)).losses
            )
        assert coterie.open_segmenter(tmp_path / f"{kind}-kept").model.preprocessing.value_range == (-5, 5)
        assert coterie.predict(tmp_path / f"{kind}-kept", images, out, **HERE) == 4
        pages.append([each.read_bytes() for each in sorted((out / "overlays").iterdir())])
    assert said[0] == said[1]
    assert pages[0] == pages[1]


def test_file_names_stay_in_their_folder_and_differ():
    names = ["a/b.png", "a/b.jpg", "../../etc/passwd", "/x/y.png", "A/B.png", "c.d", ""]
    made = file_names(names)
    assert made == ["a/b", "a/b-2", "etc/passwd", "x/y", "A/B-3", "c.d", "image"]
    assert file_names(["/data/cells/a/1.png", "/data/cells/b/1.png"]) == ["a/1", "b/1"]
    assert file_names(["/data/cells/1.png"]) == ["1"]


def test_the_page_escapes_names(tmp_path):
    pixels = np.full((20, 30, 3), 100, dtype=np.uint8)
    picture = MaskedPicture("a<b", pixels, pixels, [("<bar>", 0.25), ("ground", 0.75)])
    classes = [("ground", "#000000", 0.75), ("<bar>", "#800000", 0.25), ("disc", "#008000", 0.0)]
    write_segmentation_page(tmp_path / "page.html", "title", [picture], classes, 1, {"model": "m"})
    page = (tmp_path / "page.html").read_text()
    assert "a&lt;b: ground 75 %, &lt;bar&gt; 25 %" in page
    assert "2 classes in 1 images" in page
    assert "Found nowhere: disc." in page


def test_figures_on_other_images(trained, tmp_path):
    folder = draw(tmp_path / "other", 6, seed=9)
    found = coterie.evaluate(trained, folder / "images", masks=folder / "masks", **HERE)
    assert found["segmenter"]["miou"] > 40  # it learned; chance is below 30
    assert set(found["iou"]) == {"ground", "bar", "square"}
    assert found["segmenter"]["miou"] == pytest.approx(np.mean(list(found["iou"].values())))
    assert "of 3 classes in 6 images" in str(found)
    kept = json.loads((trained / "evaluation.json").read_text())
    assert kept["segmenter"] == found["segmenter"]


def test_classes_are_matched_by_name(trained, tmp_path):
    folder = draw(tmp_path / "other", 4, seed=9)
    before = coterie.evaluate(trained, folder / "images", masks=folder / "masks", **HERE)["iou"]
    (folder / "names.txt").write_text("bar\nground\ndisc\n")
    for each in (folder / "masks").iterdir():
        mask = np.array([1, 0, 2], dtype=np.uint8)[np.asarray(Image.open(each))]
        Image.fromarray(mask).save(each)
    with pytest.warns(
        coterie.CoterieWarning, match=r"800 pixels are of classes that the segmenter does not know \(disc\)"
    ):
        found = coterie.evaluate(
            trained, folder / "images", masks=folder / "masks", classes=folder / "names.txt", **HERE
        )
    assert set(found["iou"]) == set(before)
    (folder / "names.txt").write_text("dog\ncat\ncow\n")
    with pytest.raises(UserError, match="has no class that the segmenter knows"):
        coterie.evaluate(trained, folder / "images", masks=folder / "masks", classes=folder / "names.txt", **HERE)


def test_masks_of_another_size_are_left_out_and_said(trained, tmp_path):
    folder = draw(tmp_path / "other", 3)
    Image.fromarray(np.zeros((40, 48), dtype=np.uint8)).save(folder / "masks" / "02.png")
    with pytest.warns(coterie.CoterieWarning, match="48 x 48 pixels where its mask has 48 x 40"):
        found = coterie.evaluate(trained, folder / "images", masks=folder / "masks", **HERE)
    assert len(found.overlap.true) == 2


def test_a_segmenter_is_no_model_no_classifier_and_no_run(trained, weights, drawn, tmp_path):
    images, masks = drawn / "images", drawn / "masks"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for call, said in (
        (lambda: coterie.embed(trained, images, tmp_path / "a.parquet", **HERE), "is a segmenter, not a"),
        (lambda: coterie.report(trained), "is a segmenter, not a run"),
        (
            lambda: coterie.export(trained, out=tmp_path / "a", format="timm"),
            "is a segmenter, which is not exported yet",
        ),
        (lambda: coterie.evaluate(trained, images, **HERE), "give the masks of the images"),
        (lambda: coterie.evaluate(trained, images, masks=masks, size=32, **HERE), "leave out --size"),
        (lambda: coterie.evaluate(weights, images, masks=masks, **HERE), "--masks and --classes are for a segmenter"),
        (lambda: coterie.predict(trained, images, tmp_path / "a.csv", **HERE), "a segmenter writes a folder of masks"),
        (lambda: coterie.predict(trained, images, tmp_path / "taken", **HERE), "is no folder of masks"),
        (lambda: coterie.predict(trained, images, tmp_path / "a", sort_into=tmp_path / "s", **HERE), "--sort-into"),
        (lambda: coterie.open_segmenter(weights), "is no segmenter"),
        (lambda: coterie.open_segmenter(tmp_path / "nothing"), "does not exist"),
        (lambda: coterie.open_detector(trained), "has no detector.safetensors"),
        (lambda: coterie.train(trained, images, out=tmp_path / "b", **options(drawn)), "is a segmenter, not a MODEL"),
    ):
        with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
            call()
        assert said in str(caught.value)
