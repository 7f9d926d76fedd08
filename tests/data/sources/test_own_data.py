"""What is given in Python: every kind of dataset and of label, and a line for what is none."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.data.sources.arrays import Arrays
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.data.sources.own_data import OwnData, given_data
from coterie.data.sources.source import ImageSource, label_matrix, labels
from coterie.errors import BadImage, UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
NUMBERS = [number % 3 for number in range(20)]
NAMES = ["ant", "bee", "cow"]


class Pairs(torch.utils.data.Dataset):
    """A dataset as torch's tutorials write them."""

    def __init__(self, transform: Callable[[Any], Any] | None = None, label: Callable[[int], Any] = int) -> None:
        self.transform, self.label, self.read = transform, label, 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        image = Image.fromarray(PIXELS[index])
        return (self.transform(image) if self.transform else image), self.label(NUMBERS[index])


class WithTargets(Pairs):
    """As torchvision's datasets in memory: all labels are there without the images."""

    def __init__(self, targets: Any) -> None:
        super().__init__()
        self.targets, self.classes = targets, NAMES


class HuggingFace:
    """The documented behavior of ``datasets.Dataset`` that is used: rows, columns, ``with_format``, features."""

    class Label:
        names = NAMES

    column_names = ("image", "Label")
    features = {"Label": Label}  # noqa: RUF012

    def __init__(self) -> None:
        self.column_names = ["image", "Label"]
        self.read = 0

    def __len__(self) -> int:
        return 20

    def with_format(self, kind: None) -> "HuggingFace":
        return self

    def __getitem__(self, key: int | str) -> Any:
        if key == "Label":
            return NUMBERS
        assert type(key) is int
        self.read += 1
        return {"image": Image.fromarray(PIXELS[key]), "Label": NUMBERS[key]}


def source_of(data: Any, **options: Any) -> ImageSource:
    return given_data(data, read_labels=True, **options).open()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a number": (lambda: 7, "data is an int: give a path, a list of"),
    "a function": (lambda: len, "data is a builtin_function_or_method: give a path"),
    "a class": (lambda: Pairs, "data is a type: give a path"),
    "one image": (lambda: PIXELS[0], r"data is an array uint8\[6, 5, 3\]: that is one image: give uint8 pixels \[n, H, W\]"),
    "one gray image": (lambda: PIXELS[0, :, :, 0], r"uint8\[6, 5\]: that is one image"),
    "one PIL image": (lambda: Image.fromarray(PIXELS[0]), "a PIL image RGB of 5 x 6: that is one image"),
    "one file": (lambda: b"\x89PNG", "data is a bytes: that is one image"),
    "float array": (lambda: PIXELS / 255, r"float64\[20, 6, 5, 3\]: give uint8 pixels: .*\(x \* 255\).astype\('uint8'\)"),
    "half tensor": (lambda: torch.rand(4, 3, 6, 5).half(), r"tensor float16\[4, 3, 6, 5\]: .*\(x \* 255\).to\(torch.uint8\)"),
    "bool array": (lambda: PIXELS > 5, r"array bool.*x.astype\('uint8'\) \* 255"),
    "int64 tensor": (lambda: torch.zeros(4, 6, 5, dtype=torch.int64), "tensor int64.*x.to.torch.uint8. where"),
    "array NCHW": (lambda: PIXELS.transpose(0, 3, 1, 2), r"channels last: x.transpose\(0, 2, 3, 1\)"),
    "tensor NHWC": (lambda: torch.tensor(PIXELS), r"channels first: x.permute\(0, 3, 1, 2\)"),
    "array CHW": (lambda: [PIXELS[0].transpose(2, 0, 1)], r"item 0 of data .*x.transpose\(1, 2, 0\)"),
    "tensor HWC": (lambda: [torch.tensor(PIXELS[0])], r"item 0 of data .*x.permute\(2, 0, 1\)"),
    "five dimensions": (lambda: PIXELS[None], r"uint8\[1, 20, 6, 5, 3\]: give uint8 pixels \[n, H, W\] or \[n, H, W, C\]"),
    "no images": (lambda: PIXELS[:0], r"data is an array uint8\[0, 6, 5, 3\], without images"),
    "an empty dataset": (lambda: torch.utils.data.Subset(Pairs(), []), "data is a Subset without images"),
    "a dict of arrays": (lambda: {"image": PIXELS, "label": NUMBERS}, r"data is a dict with image, label: .*data\['image'\]"),
    "arrays and labels": (lambda: (PIXELS, np.array(NUMBERS)), r"item 1 of data is an array int64\[20\]: labels go into pairs"),
    "a generator": (lambda: (each for each in PIXELS), r"a generator: its items have no numbers: give list\(...\)"),
    "a set": (lambda: {"a.png"}, "a set: its items have no numbers"),
    "a loader": (lambda: torch.utils.data.DataLoader(Pairs()), "data is a DataLoader: give its dataset, .dataset"),
    "no length": (torch.utils.data.Dataset, "data is a Dataset: it has no __len__"),
    "a transform": (lambda: Pairs(lambda image: torch.rand(3, 4, 4)), "item 0 .*the dataset without its transform"),
    "triples": (lambda: [(PIXELS[0], 1, 2)], "item 0 of data is a tuple of 3: give an image, or a pair of image and label"),
    "two views": (lambda: [(PIXELS[0], PIXELS[1])], "these are two images: give one image"),
    "nothing": (lambda: [PIXELS[0], None], "item 1 of data is NoneType: give uint8 pixels"),
    "numbers": (lambda: [1, 2, 3], "item 0 of data is an int: give uint8 pixels"),
    "texts": (lambda: ["hello", "world"], "hello: no such file or folder"),
    "pairs of texts": (lambda: [("hello", "world")], "not one of 1 items of data can be read; the first: hello: cannot be"),
    "other keys": (lambda: [{"foo": PIXELS[0]}], "a dict with foo: name the entry that is the image 'image'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_dataset_is_refused_in_one_line_without_pixels(kind: str) -> None:
    build, message = WRONG[kind]
    with pytest.raises(UserError, match=message) as raised:
        source_of(build())
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_tables_of_pandas_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    for table in (pandas.DataFrame({"path": ["a.png"]}), pandas.Series(["a.png"])):
        with pytest.raises(UserError, match=r"give a list of its values"):
            source_of(table)


def test_a_dataset_of_numbered_columns_takes_the_named_ones() -> None:
    rows = [{"left": PIXELS[0], "right": PIXELS[1], "kind": "bee"}]
    named = Columns(image="right", label="kind")
    source = source_of(rows, columns=named)
    assert np.array_equal(np.asarray(source[0]), PIXELS[1])
    assert source.classes == ("bee",)
    with pytest.raises(UserError, match=r"no column 'middle' .*the columns are: left, right, kind"):
        source_of(rows, columns=Columns(image="middle"))


@pytest.mark.parametrize(
    "label",
    [int, np.int64, float, torch.tensor, lambda each: np.array([each]), lambda each: [each], lambda each: (each,)],
    ids=["int", "numpy", "float", "tensor", "array of one", "list of one", "tuple of one"],
)
def test_numbers_of_any_type_are_labels(label: Callable[[int], Any]) -> None:
    assert labels(source_of(Pairs(label=label))).tolist() == NUMBERS
    assert labels(source_of([(PIXELS[row], label(NUMBERS[row])) for row in range(20)])).tolist() == NUMBERS


def test_names_missing_labels_and_bools() -> None:
    source = source_of([(PIXELS[0], "bee"), (PIXELS[1], None), PIXELS[2], (PIXELS[3], np.str_("ant"))])
    assert source.classes == ("ant", "bee")
    assert [source.label(row) for row in range(4)] == [1, None, None, 0]
    assert labels(source_of([(PIXELS[0], True), (PIXELS[1], False)])).tolist() == [1, 0]
    assert source_of(list(PIXELS)).classes == ()


@pytest.mark.parametrize("several", [lambda row: row, lambda row: np.isin(np.arange(3), row).astype(int)])
def test_several_labels_an_image(several: Callable[[list[int]], Any]) -> None:
    rows = [[0, 2], [1], [], [0, 1, 2]]
    source = source_of([(PIXELS[0], several(row)) for row in rows])
    matrix = label_matrix(source)
    assert [np.flatnonzero(row).tolist() for row in matrix.rows] == rows
    assert matrix.known.all()


def test_labels_that_cannot_be_used_are_refused_where_they_are_needed() -> None:
    rows = [(each, {"boxes": [1]}) for each in PIXELS]
    with pytest.raises(UserError, match=r"a label is a dict with boxes: give a label: a number, a name"):
        source_of(rows)
    assert given_data(rows).open().classes == ()


def test_labels_are_found_without_reading_the_images() -> None:
    for targets in (NUMBERS, torch.tensor(NUMBERS), np.array(NUMBERS)):
        dataset = WithTargets(targets)
        part = torch.utils.data.Subset(dataset, range(5, 15))
        for data, expected in ((dataset, NUMBERS), (part, NUMBERS[5:15])):
            source = given_data(data).open()
            assert source.classes == tuple(NAMES)
            assert labels(source).tolist() == expected
        assert dataset.read < 150
    rows = HuggingFace()
    source = given_data(rows).open()
    assert source.classes == tuple(NAMES)
    assert labels(source).tolist() == NUMBERS
    lying = WithTargets([2] * 20)  # a target_transform, say
    assert given_data(lying).open().classes == ()
    assert labels(source_of(lying)).tolist() == NUMBERS


def test_pretraining_does_not_read_every_item_for_its_label() -> None:
    dataset = Pairs()
    source = given_data(dataset).open()
    before = dataset.read
    assert source.classes == ()
    assert dataset.read == before
    assert source_of(dataset).classes == ("0", "1", "2")


def test_images_that_are_not_read_yet_do_not_share_a_file(tmp_path: Path) -> None:
    """Two processes that read one open file would disturb each other; and pixels would stay in memory."""
    Image.fromarray(PIXELS[0]).save(tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as image:
        source = source_of([image])
        assert source[0] == (tmp_path / "0.png").read_bytes()
        assert image.tile  # still not read


def test_an_item_that_raises_later_is_a_bad_image() -> None:
    class Breaking(Pairs):
        def __getitem__(self, index: int) -> Any:
            if self.read > 60:
                raise RuntimeError("the connection\nis closed")
            return super().__getitem__(index)

    dataset = Breaking()
    source = source_of(dataset)
    dataset.read = 61
    with pytest.raises(BadImage, match=r"^reading this item raises RuntimeError: the connection$"):
        _ = source[0]


def test_sources_of_ours_and_several_datasets(tmp_path: Path) -> None:
    own = Arrays(PIXELS, NUMBERS)
    assert given_data(own).source is own
    Image.fromarray(PIXELS[0]).save(tmp_path / "0.png")
    given = given_data([tmp_path, PIXELS[:3], own, open_source(tmp_path)])
    assert given.specs[0] == str(tmp_path)
    assert all(each.startswith("python: ") for each in given.specs[1:])
    assert len(given.open()) == 1 + 3 + 20 + 1


def test_what_is_given_is_described_in_a_few_words() -> None:
    described = {
        "python: array uint8[20, 6, 5, 3]": PIXELS,
        "python: tensor uint8[20, 6, 5]": torch.tensor(PIXELS[..., 0]),
        "python: list of 20 arrays": list(PIXELS),
        "python: list of 2 PIL images": [(Image.fromarray(each), 1) for each in PIXELS[:2]],
        "python: list of 2 images": [PIXELS[0], Image.fromarray(PIXELS[1])],
        f"python: {__name__}.Pairs of 20 images": Pairs(),
    }
    for spec, data in described.items():
        assert given_data(data).specs == (spec,)


def test_paths_stay_paths(tmp_path: Path) -> None:
    for data, specs in (("a", ("a",)), (Path("a"), ("a",)), (["a", Path("b")], ("a", "b")), ((), ()), ([], ())):
        assert given_data(data).specs == specs
    assert given_data(np.array(["a", "b"])).specs == ("a", "b")
    assert given_data(None).specs == ()


def test_it_can_be_pickled_as_its_dataset_can() -> None:
    source = pickle.loads(pickle.dumps(source_of(Pairs())))
    assert isinstance(source, OwnData)
    assert np.array_equal(np.asarray(source[3]), PIXELS[3])
