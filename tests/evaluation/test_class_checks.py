from pathlib import Path

import pytest

from coterie.data.sources.open import open_source
from coterie.data.sources.source import labels
from coterie.errors import UserError
from coterie.evaluation.class_checks import check_classes, describe_classes, role_of, similar
from tests.data.sources.helpers import pack, write


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (
            "train Train TRAIN training train2017 images_train train-images trainset TrainSet train_set imagesTr trainval",
            "train",
        ),
        ("val val2017 valid validation dev eval test Test testing test_images TestImages test-set imagesTs", "test"),
        ("unlabeled unlabeled2017 extra fold_1 fold2 gallery", "split"),
        ("images Images masks labels annotations JPEGImages SegmentationClass ground_truth images2017", "data"),
        ("cat trains_and_cars image_17 img1 invalid ground class_3 00 training_shoes n01440764 latest", None),
    ],
)
def test_what_a_folder_is_called_after(names: str, role: str | None) -> None:
    found = {name: role_of(name) for name in names.split()}
    assert set(found.values()) == {role}, found


def check(*specs: object) -> tuple[str, ...]:
    source = open_source(*map(str, specs))
    return check_classes(source, labels(source), "TRAIN")


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ("train val test", "the folders test, train, val are splits, not classes: name {}/train --test {}/val"),
        ("train2017 val2017", "name {}/train2017 --test {}/val2017"),
        ("Train Test", "name {}/Train --test {}/Test"),
        ("val test", "name {}/val --test {}/test"),
        ("train", "the folders train are splits, not classes: name {}/train"),
        (
            "images masks",
            "the folders images, masks are kinds of data, not classes: name {}/images, and a table of its labels",
        ),
        (
            "train val masks",
            "the folders masks, train, val are splits or kinds of data, not classes: name {}/train --test {}/val",
        ),
        (
            "cat",
            r"TRAIN has one class only \(cat\), which any network gets right: name images of two classes or more",
        ),
    ],
)
def test_what_cannot_be_classes_is_refused_with_what_to_name(folders: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/1.png" for name in folders.split()))
    with pytest.raises(UserError, match=said.replace("{}", str(tmp_path))) as error:
        check(tmp_path)
    assert "\n" not in str(error.value)


def test_classes_one_level_deeper_are_named(tmp_path: Path) -> None:
    write(
        tmp_path, "data/cat/1.png", "data/dog/1.png", "data/.hidden/1.png", "animals/a/1.png", "other/animals/b/1.png"
    )
    with pytest.raises(UserError, match=f"if its classes are cat, dog, name {tmp_path}/x/things$"):
        check(write(tmp_path / "x", "things/cat/1.png", "things/dog/1.png"))


def test_a_class_that_is_called_like_a_split_is_only_remarked(tmp_path: Path) -> None:
    write(tmp_path, "bus/1.png", "train/1.png", "car/1.png")
    assert check(tmp_path) == ("TRAIN: is train a class? It is named like splits",)


def test_splits_in_a_tar_and_in_several_folders(tmp_path: Path) -> None:
    write(tmp_path, "a/train/1.png", "a/val/1.png", "b/train/1.png")
    with pytest.raises(UserError, match=r"are splits, not classes: name train --test val"):
        check(tmp_path / "a", tmp_path / "b")
    source = open_source(str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"LABELED: .* are splits, not classes: name train$"):
        check_classes(source, labels(source), "LABELED")
    labeled = pack(tmp_path / "x.tar", 3, "val")
    with pytest.raises(UserError, match="one class only"):  # a label, not a folder: it is what it says
        check(labeled)


def test_classes_are_described_in_one_line(tmp_path: Path) -> None:
    source = open_source(write(tmp_path, *(f"c{number}/1.png" for number in range(9))))
    assert (
        describe_classes(source, labels(source), "TRAIN")
        == "TRAIN: 9 images of 9 classes (folders): c0, c1, c2 and 6 more"
    )


def test_names_that_are_alike() -> None:
    assert similar(["Cat", "cat", "dog", "Big-Dog", "big dog"]) == [("Cat", "cat"), ("Big-Dog", "big dog")]
    assert similar(["01", "1", "10"]) == [("01", "1")]
    assert similar(["01_cat", "2.dog"], ["cat", "Dog", "eel"]) == [("01_cat", "cat"), ("2.dog", "Dog")]
    assert similar(["a1", "a2"]) == []


@pytest.mark.parametrize("above", ["images", "a/b/images", "data/images"])
def test_class_folders_below_are_named(above: str, tmp_path: Path) -> None:
    write(tmp_path, f"{above}/cat/1.jpg", f"{above}/dog/1.jpg", f"{above}/.cache/x")
    with pytest.raises(UserError, match=f"if its classes are cat, dog, name {tmp_path}/{above}"):
        check(tmp_path)
