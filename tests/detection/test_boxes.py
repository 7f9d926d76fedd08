"""Files of boxes: what is read, what is said in one line, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from coterie.data.sources.open import open_source
from coterie.detection.boxes import find_images
from coterie.detection.training_images import read_pixels
from coterie.detection.voc import read_boxes
from coterie.errors import BadImage, UserError


def changed(drawn, tmp_path, change):
    content = json.loads(drawn.with_suffix(".json").read_text())
    change(content)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def test_a_coco_file_is_read(drawn):
    file = read_boxes(drawn.with_suffix(".json"))
    assert (file.categories, file.numbers, file.remarks) == (("bar", "square"), (3, 4), ())
    first = file.images[0]
    assert (first.name, first.number, first.width, first.height) == ("00.png", 10, 64, 64)
    (left, top, right, bottom), area = first.boxes[0], first.areas[0]
    assert (right - left, bottom - top, area) == (40, 12, 480)
    boxed = find_images(file, open_source(str(drawn)))
    assert boxed.positions == tuple(range(8))
    assert boxed.counts.tolist() == [4, 4]


def test_floating_point_images_are_scaled_as_the_network_was_trained_with(drawn, tmp_path):
    file = read_boxes(drawn.with_suffix(".json"))
    tifffile.imwrite(tmp_path / "00.png", np.linspace(-10, 10, 64 * 64, dtype=np.float32).reshape(64, 64))
    boxed = replace(find_images(replace(file, complete=False), open_source(str(tmp_path))), value_range=(-5, 5))
    pixels = read_pixels(boxed, 0, 1).numpy()
    np.testing.assert_allclose(pixels.ravel(), np.linspace(-0.5, 1.5, 64 * 64).clip(0, 1), atol=1e-4)
    with pytest.raises(BadImage, match="range is not known"):
        read_pixels(replace(boxed, value_range=None), 0, 1)


def break_box(content, box, **more):
    content["annotations"][2] |= {"bbox": box, **more}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: break_box(c, [50, 50, 40, 10]), "1 box reaches beyond their image and are cut at its edge: 02.png"),
        (lambda c: break_box(c, [70, 5, 10, 10]), "1 boxes have no area in their image and are left out: 02.png"),
        (lambda c: break_box(c, [5, 5, 0, 10]), "1 boxes have no area in their image and are left out: 02.png"),
        (lambda c: c["annotations"].pop(3), "1 images have no boxes, and are kept as images of none (03.png)"),
        (lambda c: break_box(c, [5, 5, 9, 10], iscrowd=1), "1 crowds or difficult objects are not trained on"),
    ],
)
def test_what_cannot_be_used_as_it_is_is_said(drawn, tmp_path, change, said):
    file = read_boxes(changed(drawn, tmp_path, change))
    assert said in file.remarks[0], file.remarks
    assert all((each.boxes >= 0).all() and (each.boxes <= 64).all() for each in file.images)


def test_a_box_beyond_its_image_is_cut_there(drawn, tmp_path):
    file = read_boxes(changed(drawn, tmp_path, lambda c: break_box(c, [50, 50, 40, 10])))
    np.testing.assert_array_equal(file.images[2].boxes, [[50, 50, 64, 60]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["annotations"][1].update(category_id=9),
            "1 annotations are of categories that are not in the file (9)",
        ),
        (
            lambda c: c["annotations"][1].update(image_id=99),
            "annotations[1] is of image 99, which is not among its images",
        ),
        (lambda c: c["annotations"][1].pop("category_id"), "annotations[1] has no image_id or no category_id"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), "annotations[1] has the bbox [1, 2, 3]"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4]), "annotations[1] has the bbox"),
        (lambda c: c["annotations"].clear(), "has no boxes"),
        (lambda c: c["images"][0].update(width="64"), "image 00.png has the size '64' x 64"),
        (lambda c: c["images"][0].pop("file_name"), "images[0] has no file_name"),
        (lambda c: c["images"][1].update(id=10), "two of its images have the id 10"),
        (lambda c: c["categories"][1].update(name="bar"), "two categories are called bar"),
        (lambda c: c.pop("categories"), "it has no list of categories"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(drawn, tmp_path, change, said):
    with pytest.raises(UserError) as caught:
        read_boxes(changed(drawn, tmp_path, change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_and_file_have_to_agree(drawn, tmp_path):
    def another(content):
        content["images"].append(content["images"][0] | {"id": 99, "file_name": "gone.png"})

    with pytest.raises(UserError, match=r"lists 1 images that are not in IMAGES \(gone.png\)"):
        find_images(read_boxes(changed(drawn, tmp_path, another)), open_source(str(drawn)))

    def fewer(content):
        content["annotations"].pop(0)
        content["images"].pop(0)

    boxed = find_images(read_boxes(changed(drawn, tmp_path, fewer)), open_source(str(drawn)))
    assert boxed.positions == tuple(range(1, 8))
    assert "1 images are not in" in boxed.file.remarks[0]
    assert "(00.png)" in boxed.file.remarks[0]


VOC = """<annotation><filename>{name}</filename><size><width>64</width><height>64</height><depth>3</depth></size>
<object><name>{kind}</name><difficult>{difficult}</difficult>
<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>64</ymax></bndbox></object></annotation>"""


def voc_folder(tmp_path, *names):
    folder = tmp_path / "Annotations"
    folder.mkdir()
    for number, name in enumerate(names):
        text = VOC.format(name=name, kind="cow" if number else "ant", difficult=number)
        (folder / f"{number}.xml").write_text(text)
    return folder


def test_a_folder_of_voc_is_read(drawn, tmp_path):
    file = read_boxes(voc_folder(tmp_path, "01.png", "03.png", "elsewhere.png"))
    assert file.categories == ("ant", "cow")
    np.testing.assert_array_equal(
        file.images[0].boxes, [[0, 2, 10, 64]]
    )  # edges are counted from 1, and belong to the box
    assert [each.ignored.tolist() for each in file.images] == [[False], [True], [False]]
    boxed = find_images(file, open_source(str(drawn)))
    assert boxed.positions == (1, 3)
    assert any(
        "1 of its images are not in IMAGES and are left out (elsewhere.png)" in line for line in boxed.file.remarks
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>", "is no XML file"),
        ("<html></html>", "it begins with <html>"),
        (VOC.format(name="a", kind="", difficult=0), "has an object without name"),
        (VOC.format(name="a", kind="ant", difficult=0).replace(">10<", ">ten<"), "xmax is 'ten'"),
        ("<annotation></annotation>", "has no boxes"),
    ],
)
def test_a_damaged_file_of_voc_is_one_line(tmp_path, text, said):
    (tmp_path / "0.xml").write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        read_boxes(tmp_path)
    assert said in str(caught.value)


def test_no_boxes_at_all(tmp_path):
    with pytest.raises(UserError, match="has no XML files"):
        read_boxes(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_boxes(tmp_path / "nothing.json")
