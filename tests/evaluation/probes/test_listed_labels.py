"""Lists of images whose labels may be used, as SimCLR published them for ImageNet: file names of images in class folders."""

from pathlib import Path

import pytest
from PIL import Image

from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.evaluation.probes.few_labels import FewLabels
from coterie.evaluation.probes.finetuning import FINETUNING_RECIPES, ONE_PERCENT, TEN_PERCENT
from coterie.evaluation.probes.listed_labels import listed_labels


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """Two classes of three images; ``same.png`` is in both."""
    root = tmp_path_factory.mktemp("imagenet")
    for kind in ("n01440764", "n01443537"):
        (root / kind).mkdir()
        for name in (f"{kind}_1.png", f"{kind}_20.png", "same.png"):
            Image.new("RGB", (8, 8)).save(root / kind / name)
    return open_source(str(root))


def written(path: Path, content: bytes) -> Path:
    file = path / "1percent.txt"
    file.write_bytes(content)
    return file


def test_images_are_found_by_their_file_names(source: ImageSource, tmp_path: Path) -> None:
    file = written(tmp_path, b"\xef\xbb\xbfn01443537_20.png\r\n\nn01440764_1.png\r\nn01440764_1.png\n")
    listed = listed_labels(file)
    chosen = listed.subset(source)
    assert [source.name(place) for place in chosen.positions.tolist()] == [
        "n01440764/n01440764_1.png",
        "n01443537/n01443537_20.png",
    ]
    assert (chosen.remarks, listed.asked()) == ((), {"label_list": str(file)})


def test_paths_are_clearer_and_other_suffixes_do(source: ImageSource, tmp_path: Path) -> None:
    chosen = listed_labels(written(tmp_path, b"n01443537/same.png\nn01440764_20.JPEG\n")).subset(source)
    assert [source.name(place) for place in chosen.positions.tolist()] == [
        "n01440764/n01440764_20.png",
        "n01443537/same.png",
    ]


def test_names_that_are_missing_are_counted(source: ImageSource, tmp_path: Path) -> None:
    (remark,) = listed_labels(written(tmp_path, b"n01440764_1.png\nn9_3.png\nn9_4.png\n")).subset(source).remarks
    assert remark.endswith("2 of 3 names match no labeled image of TRAIN (such as 'n9_3.png')")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"n9_3.png\nn9_4.png\n", "none of its 2 names, such as 'n9_3.png', is one of TRAIN's"),
        (b"same.png\n", "'same.png' means n01440764/same.png or n01443537/same.png"),
        (b"\n", "this list is empty"),
        (b"\xff\xd8\xff\xe0", "not a text list of names"),
    ],
)
def test_what_is_no_list_of_these_images_is_refused_in_one_line(
    source: ImageSource, tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        listed_labels(written(tmp_path, content)).subset(source)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be read"):
        listed_labels(tmp_path / "there is none.txt")


def test_recipes_go_by_the_share_of_imagenets_labels_that_they_are_for() -> None:
    assert FINETUNING_RECIPES == {"1%": ONE_PERCENT, "10%": TEN_PERCENT}
    assert FewLabels(share=1.0).asked() == {"label_fraction": "100%"}
