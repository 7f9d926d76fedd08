from pathlib import Path

import pytest
from PIL import Image

from coterie.errors import UserError
from coterie.evaluation.labeled_data import labeled_pair


def folder(root: Path, **classes: int) -> tuple[str]:
    """A folder with so many images in each class folder."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(root / name / f"{number:02}.png")
    return (str(root),)


def labels(source) -> list[str]:
    return [source.classes[source.label(i)] for i in range(len(source))]


def test_classes_are_matched_by_name_and_unknown_ones_left_out_with_a_remark(tmp_path: Path) -> None:
    pair = labeled_pair(folder(tmp_path / "a", cat=2, dog=3), folder(tmp_path / "b", ant=2, dog=1))
    assert labels(pair.train) == ["cat", "cat", "dog", "dog", "dog"]
    assert labels(pair.test) == ["dog"]
    assert pair.test.name(0) == "dog/00.png"
    assert pair.remarks == ("2 images of TEST are left out: TRAIN has no image of their class",)


def test_without_a_test_source_every_fifth_image_is_for_testing(tmp_path: Path) -> None:
    pair = labeled_pair(folder(tmp_path / "a", cat=6, dog=6), ())
    assert [pair.test.name(i) for i in range(len(pair.test))] == ["cat/04.png", "dog/03.png"]
    assert len(pair.train) == 10


@pytest.mark.parametrize(("test", "said"), [({"ant": 2}, "shares no class"), (None, "fewer than 5")])
def test_no_common_class_or_too_few_images_are_refused(tmp_path: Path, test: dict | None, said: str) -> None:
    source = folder(tmp_path / "b", **test) if test else ()
    with pytest.raises(UserError, match=said):
        labeled_pair(folder(tmp_path / "a", cat=2), source)
