"""Masks as they lie in folders: layouts, classes, and what is refused or said."""

import json

import numpy as np
import pytest
from PIL import Image

from coterie.data.sources.open import open_source
from coterie.errors import UserError
from coterie.logger import NullLogger
from coterie.segmentation.classes import found_classes, known_classes, read_classes
from coterie.segmentation.colors import class_colors, overlay, palette
from coterie.segmentation.masks import open_masks
from tests.segmentation.conftest import draw


def opened(folder, masks="masks", classes=None, images="images"):
    return open_masks(folder / masks, classes, open_source(str(folder / images)), NullLogger())


def save(path, pixels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(pixels, dtype=np.uint8))
    if mode == "P":
        picture.putpalette(palette(class_colors(("background", "a", "b")), (0, 1, 2)))
    picture.save(path)


def photo(path, shape=(2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*shape, 3), dtype=np.uint8)).save(path)


def test_names_of_classes_and_pixels_of_each(drawn):
    masked = opened(drawn)
    assert masked.classes.names == ("ground", "bar", "square")
    assert masked.counts.tolist() == [8 * 48 * 48 - 4 * 720, 4 * 320, 4 * 400]
    assert (len(masked.positions), masked.short_side, masked.remarks) == (8, 48, ())
    assert sorted(np.unique(masked.labels(1)).tolist()) == [0, 2]


def test_the_cells_work_as_they_lie(shared):
    """Their masks have 0, 128 and 255, of which none is ignored."""
    folder = shared / "data" / "cells"
    source = open_source(str(folder / "images"))
    masked = open_masks(folder / "masks", None, source, NullLogger())
    assert len(masked.positions) == 300
    assert masked.classes.values == (0, 128, 255)
    assert set(np.unique(masked.labels(0)).tolist()) == {0, 1, 2}
    assert len(masked.remarks) == 1
    assert "255 is a class too" in masked.remarks[0]


@pytest.mark.parametrize(
    ("values", "names", "ignored"),
    [
        ((0, 1, 2), ("0", "1", "2"), (255,)),
        ((0, 1, 255), ("0", "1"), (255,)),
        ((0, 255), ("0", "255"), ()),
        ((0, 127, 255), ("0", "127", "255"), ()),
        ((3, 7, 255), ("3", "7"), (255,)),
    ],
)
def test_without_names_the_values_are_the_classes(values, names, ignored):
    counts = np.bincount(np.array(values), minlength=256)
    classes, line = found_classes(counts, "masks")
    assert (classes.names, classes.ignored) == (names, ignored)
    assert ("255 is a class too" in line) == (255 in values and not ignored)


def test_a_list_of_names_for_as_many_grays(tmp_path):
    folder = draw(tmp_path / "grays", 4, values=(0, 128, 255))
    (folder / "names.txt").write_text("ground\nbar\nsquare\n")
    masked = opened(folder, classes=folder / "names.txt")
    assert (masked.classes.names, masked.classes.values) == (("ground", "bar", "square"), (0, 128, 255))
    few = draw(
        tmp_path / "few", 1, values=(0, 128, 255)
    )  # no square: a segmenter knows what 128 is, and what 255 would be
    source = open_source(str(few / "images"))
    again = open_masks(few / "masks", folder / "names.txt", source, NullLogger(), default=masked.classes)
    assert again.classes == masked.classes
    (folder / "names.json").write_text(json.dumps({"0": "ground", "128": None, "255": "square"}))
    masked = opened(folder, classes=folder / "names.json")
    assert masked.classes.names == ("ground", "square")
    assert np.unique(masked.labels(0)).tolist() == [0, 255]  # a bar, which is ignored


def test_voc(tmp_path):
    for name in ("2007_000032", "2007_000039", "2007_000063"):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        save(tmp_path / "SegmentationClass" / f"{name}.png", [[0, 1, 255], [15, 20, 0]], "P")
    masked = opened(tmp_path, "SegmentationClass", images="JPEGImages")
    assert masked.classes.names[15] == "person"
    assert masked.labels(0).tolist() == [[0, 1, 255], [15, 20, 0]]
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    listed = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text("2007_000039\n2007_000063\n")
    masked = opened(tmp_path, listed, images="JPEGImages")
    assert masked.positions == (1, 2)
    assert masked.remarks == ("IMAGES: 1 of the images have no mask and are left out (2007_000032.jpg)",)
    listed.write_text("2007_000040\n")
    with pytest.raises(UserError, match="lists masks that are not there, 1 of them"):
        opened(tmp_path, listed, images="JPEGImages")


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
    names = ("aachen/aachen_000000_000019", "bochum/bochum_000000_000313")
    for name in names:
        photo(tmp_path / "leftImg8bit" / f"{name}_leftImg8bit.png")
        masks = tmp_path / "gtFine"
        save(masks / f"{name}_gtFine_labelIds.png", [[7, 8, 3], [33, 26, 0]])
        photo(masks / f"{name}_gtFine_color.png")
        save(masks / f"{name}_gtFine_instanceIds.png", [[7, 8, 3], [33, 26, 0]])
        if kind == "labelTrainIds":
            save(masks / f"{name}_gtFine_labelTrainIds.png", [[0, 1, 255], [18, 13, 255]])
    masked = opened(tmp_path, "gtFine", images="leftImg8bit")
    assert len(masked.positions) == 2
    assert masked.labels(1).tolist() == [[0, 1, 255], [18, 13, 255]]
    assert masked.classes.names[13] == "car"


def test_ade20k(tmp_path):
    photo(tmp_path / "images" / "training" / "a.jpg")
    save(tmp_path / "annotations" / "training" / "a.png", [[0, 1, 2], [150, 1, 0]])
    (tmp_path / "objectInfo150.txt").touch()
    for given in (None, "ade20k"):
        masked = opened(tmp_path, "annotations/training", given, "images/training")
        assert masked.labels(0).tolist() == [[255, 0, 1], [149, 0, 255]]
        assert (len(masked.classes.names), masked.classes.names[149]) == (150, "flag")


def test_palettes_and_endings(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    save(tmp_path / "masks" / "a_mask.png", [[0, 1, 1], [2, 2, 2]], "P")
    assert opened(tmp_path).labels(0).tolist() == [[0, 1, 1], [2, 2, 2]]


def twice(masks):
    """Two masks of one image, neither of which is named more exactly than the other."""
    for name in ("x", "y"):
        save(masks / name / "00.png", np.zeros((48, 48)))
    (masks / "00.png").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: photo(f / "masks" / "00.png", (48, 48)), "is no mask but a picture of several channels (RGB)"),
        (
            lambda f: save(f / "masks" / "00.png", np.full((48, 48), 9)),
            "1 of the masks have values that are no class of",
        ),
        (lambda f: (f / "masks" / "classes.txt").write_text("a\n"), "names 1 classes"),
        (lambda f: (f / "masks" / "classes.txt").write_text("a\na\n"), "names two classes a"),
        (
            lambda f: [each.rename(each.with_name(f"x{each.name}")) for each in (f / "masks").glob("*.png")],
            "is named as",
        ),
        (lambda f: [each.unlink() for each in (f / "masks").glob("*.png")], "has no PNG files"),
        (lambda f: twice(f / "masks"), "are both masks of 00.png"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, change, said):
    folder = draw(tmp_path / "drawn", 2)
    (folder / "masks" / "classes.txt").write_text("ground\nbar\nsquare\n")
    change(folder)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        opened(folder)
    assert said in str(caught.value)


def test_what_is_left_out_is_said(tmp_path):
    folder = draw(tmp_path / "drawn", 4)
    (folder / "masks" / "01.png").unlink()
    (folder / "images" / "02.png").unlink()
    (folder / "masks" / "03.png").write_bytes(b"nothing")
    said = opened(folder, classes=known_file(folder)).remarks
    assert [line.partition(": ")[2] for line in said] == [
        "1 of the masks have no image in IMAGES and are left out (02.png)",
        "1 of the images have no mask and are left out (01.png)",
        "1 of the masks cannot be read and are left out (03.png: not an image in a supported format)",
    ]


def known_file(folder):
    (folder / "names.json").write_text('["ground", "bar", "square"]')
    return folder / "names.json"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": "b"}', "'a' is no value of a mask"),
        ('{"0": "a", "300": "b"}', "'300' is no value"),
        ('{"0": "a", "1": 2}', "the name of 1 is 2"),
        ("7", "give a list of names"),
        ("{", "is neither text nor JSON"),
    ],
)
def test_files_of_names_that_cannot_be_used(tmp_path, content, said):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        read_classes(tmp_path / "names.json")
    assert said in str(caught.value)


def test_known_data_sets():
    counts = {name: len(known_classes(name).names) for name in ("voc", "cityscapes", "cityscapes_label_ids", "ade20k")}
    assert counts == {"voc": 21, "cityscapes": 19, "cityscapes_label_ids": 19, "ade20k": 150}
    assert known_classes("coco") is None
    assert all(len(set(known_classes(name).names)) == count for name, count in counts.items())


def test_colors_are_those_of_voc():
    colors = class_colors(("background", "aeroplane", "bicycle"))
    assert colors.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert class_colors(("wall", "building")).tolist() == [[128, 0, 0], [0, 128, 0]]
    table = palette(colors, (0, 128, 255))
    assert (len(table), table[3 * 128 : 3 * 128 + 3], table[-3:]) == (768, [128, 0, 0], [0, 128, 0])
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    drawn = overlay(image, np.array([[0, 1]], dtype=np.uint8), colors)
    assert drawn.tolist() == [[[100, 100, 100], [115, 45, 45]]]
