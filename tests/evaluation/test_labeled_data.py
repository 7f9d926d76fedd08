from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, random_positions
from coterie.errors import UserError
from coterie.evaluation.labeled_data import held_out_fifth, labeled_pair


def folder(root: Path, **classes: int) -> ImageSource:
    """A folder with so many images in each class folder."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(root / name / f"{number:02}.png")
    return open_source(root)


def labels(source) -> list[str]:
    return [source.classes[source.label(i)] for i in range(len(source))]


def names(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_classes_are_matched_by_name_and_unknown_ones_left_out_with_a_remark(tmp_path: Path) -> None:
    pair = labeled_pair(folder(tmp_path / "a", cat=2, dog=3), folder(tmp_path / "b", ant=2, dog=1))
    assert labels(pair.train) == ["cat", "cat", "dog", "dog", "dog"]
    assert labels(pair.test) == ["dog"]
    assert pair.test.name(0) == "dog/00.png"
    assert pair.remarks == ("2 images of TEST are left out: TRAIN has no image of their class (ant)",)
    assert pair.classes == (
        "TRAIN: 5 images of 2 classes (folders): cat, dog",
        "TEST: 3 images of 2 classes (folders): ant, dog",
    )


def test_without_a_test_source_a_random_fifth_is_for_testing_always_the_same(tmp_path: Path) -> None:
    spec = folder(tmp_path / "a", cat=20, dog=20)
    pairs = [labeled_pair(spec) for _ in range(2)]
    tested, trained = ([names(getattr(pair, part)) for pair in pairs] for part in ("test", "train"))
    assert tested[0] == tested[1]
    assert (len(tested[0]), len(trained[0])) == (8, 32)
    assert sorted(tested[0] + trained[0]) == sorted(f"{name}/{n:02}.png" for name in ("cat", "dog") for n in range(20))
    assert [labels(pairs[0].test)[i] for i in range(8)] == [name[:3] for name in tested[0]]


@pytest.mark.parametrize("period", [2, 4, 5, 10, 25])
def test_a_fifth_of_alternating_classes_has_a_fair_share_of_each(period: int) -> None:
    numbers = np.arange(2000) % period
    held = held_out_fifth(numbers)
    shares = np.bincount(numbers[held], minlength=period) / 400
    assert held.sum() == 400
    assert abs(shares - 1 / period).max() < 4 * (1 / period * (1 - 1 / period) / 400) ** 0.5


def test_every_class_keeps_an_image_for_training() -> None:
    numbers = np.repeat(np.arange(300), 2)
    held = held_out_fifth(numbers)
    assert set(numbers[~held].tolist()) == set(range(300))
    drawn = np.zeros(600, dtype=bool)
    drawn[random_positions(120, 600)] = True
    assert 0 < (drawn & ~held).sum() < 30  # some were drawn together; the first of them is given back
    assert not (held & ~drawn).any()
    with pytest.raises(UserError, match="no class of TRAIN has an image to spare for testing: name test images"):
        held_out_fifth(np.arange(5))


@pytest.mark.parametrize(("test", "said"), [({"ant": 2}, "shares no class"), (None, "fewer than 5")])
def test_no_common_class_or_too_few_images_are_refused(tmp_path: Path, test: dict | None, said: str) -> None:
    source = folder(tmp_path / "b", **test) if test else None
    with pytest.raises(UserError, match=said):
        labeled_pair(folder(tmp_path / "a", cat=2, dog=1), source)


def test_what_is_wrong_with_the_names_of_classes_is_said(tmp_path: Path) -> None:
    train = folder(tmp_path / "a", Cat=2, dog=2, train=1)
    pair = labeled_pair(train, folder(tmp_path / "b", cat=1, dog=2))
    assert pair.remarks == (
        "TRAIN: is train a class? It is named like splits",
        "1 images of TEST are left out: TRAIN has no image of their class (cat; perhaps cat is Cat in TRAIN)",
    )
    with pytest.raises(UserError, match=r"alike \(TEST: x; TRAIN: Cat, dog, train\)"):
        labeled_pair(train, folder(tmp_path / "c", x=2))


def test_labels_that_are_several_per_image_are_not_single_ones(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("name,label\n00.png,x\n00.png,y\n01.png,x\n")
    folder(tmp_path / "a", cat=2)
    source = open_source(tmp_path / "a", columns=Columns(labels=str(tmp_path / "labels.csv")))
    with pytest.raises(
        UserError, match="TRAIN has several labels per image, which only --probes svm and low_shot take"
    ):
        labeled_pair(source)


def test_without_labels_the_reason_is_said(tmp_path: Path) -> None:
    folder(tmp_path / "a", cat=2)
    with pytest.raises(UserError, match=r"TRAIN has no labels \(its images are not all in class folders\): use class"):
        labeled_pair(open_source(tmp_path / "a" / "cat"))
