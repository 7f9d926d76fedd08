"""Labels in a table beside images of any kind."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.columns import Columns
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import open_source
from coterie.data.sources.source import ImageSource, label_matrix, label_notes, labels
from coterie.errors import BadConfig, UserError
from tests.data.sources.helpers import names, pack, write


def with_table(where: object, text: str, tmp_path: Path, **columns: str) -> ImageSource:
    (tmp_path / "labels.csv").write_text(text)
    specs = where if isinstance(where, tuple) else (where,)
    return open_source(*map(str, specs), columns=Columns(labels=str(tmp_path / "labels.csv"), **columns))


def classes_of(source: ImageSource) -> list[str | None]:
    found = labels(source)
    assert found.tolist() == [-1 if (label := source.label(i)) is None else label for i in range(len(source))]
    return [None if number < 0 else source.classes[number] for number in found.tolist()]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write(tmp_path / "set", "a/1.png", "a/2.png", "b/3.png")


@pytest.mark.parametrize(
    "text",
    [
        "name,label\na/1.png,x\na/2.png,y\nb/3.png,x\n",
        "id;class\n1;x\n2;y\n3;x\n",
        "Image ID\tClass Label\n1\tx\n02\ty\n003\tx\n",
        "./a/1.png,x\n./a/2.png,y\n./b/3.png,x\n",
        "FILENAME,split,TARGET\n1.png,train,x\n2.jpg,train,y\n3,test,x\n",
        "sample,label\nset/a/1.png,x\nset/a/2.png,y\nset/b/3.png,x\n",
    ],
)
def test_a_table_labels_a_folder_a_list_and_a_glob(text: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("set/a/1.png\nset/a/2.png\nset/b/3.png\n")
    for where in (images, tmp_path / "list.txt", f"{images}/*/*.png", (images / "a", images / "b")):
        source = with_table(where, text, tmp_path)
        assert classes_of(source) == ["x", "y", "x"], where
        assert label_notes(source).remarks == ()
        assert classes_of(pickle.loads(pickle.dumps(source))) == ["x", "y", "x"]


def test_a_table_labels_a_tar_and_a_parquet_table_with_names(tmp_path: Path) -> None:
    text = "key,label\n00000,cat\n00001,dog\n"
    assert classes_of(with_table(pack(tmp_path / "x.tar", 2, "7"), text, tmp_path, image="key")) == ["cat", "dog"]
    rows = [{"bytes": b"x", "path": f"img/{name}.jpg"} for name in ("00001", "00000")]
    pq.write_table(pa.table({"picture": rows, "label": [5, 5]}), tmp_path / "x.parquet")
    assert classes_of(with_table(tmp_path / "x.parquet", text, tmp_path, image="key")) == ["dog", "cat"]


def test_a_table_of_two_columns_needs_no_common_name(images: Path, tmp_path: Path) -> None:
    assert classes_of(with_table(images, "name,kind\n1,x\n2,y\n3,x\n", tmp_path)) == ["x", "y", "x"]


def test_what_does_not_match_is_counted_in_one_line(images: Path, tmp_path: Path) -> None:
    source = with_table(images, "name,label\n1.png,x\n2.png,\nzzz.png,x\n", tmp_path)
    assert classes_of(source) == ["x", None, None]
    assert label_notes(source).remarks == (
        f"{tmp_path}/labels.csv: 1 of 3 rows match no image (such as 'zzz.png'), and 2 of 3 images have no label in it (such "
        "as 'a/2.png')",
    )
    nothing = with_table(images, "name,label\nzzz.png,x\n", tmp_path)
    assert (nothing.classes, label_notes(nothing).origin) == ((), "")
    assert label_notes(nothing).absent.endswith("3 of 3 images have no label in it (such as 'a/1.png')")


def test_ambiguous_names_label_nothing_and_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "set", "images/1.png", "masks/1.png", "images/2.png")
    source = with_table(tmp_path / "set", "name,label\n1.png,x\n2.png,y\n", tmp_path)
    assert classes_of(source) == [None, "y", None]
    assert label_notes(source).remarks[-1] == (
        f"{tmp_path}/labels.csv: 1 names mean one of several images, as '1.png' means images/1.png or masks/1.png: write "
        "their paths below the folder of the images, or name a folder that holds only one of them"
    )


def test_several_rows_of_an_image_are_several_labels(images: Path, tmp_path: Path) -> None:
    source = with_table(images, "name,label\n1,x\n1,y\n1,x\n2,y\n", tmp_path)
    matrix = label_matrix(source)
    assert (matrix.classes, source.classes) == (("x", "y"), ())
    assert matrix.rows.tolist() == [[True, True], [False, True], [False, False]]
    assert matrix.known.tolist() == [True, True, False]


def test_a_column_for_each_class(images: Path, tmp_path: Path) -> None:
    source = with_table(images, "name,age,car,bus\n1,3,0,1\n2,4,1,1\n3,5,0,0\n", tmp_path)
    matrix = label_matrix(source)
    assert matrix.classes == ("bus", "car")
    assert matrix.rows.tolist() == [[True, False], [True, True], [False, False]]
    assert matrix.known.all()
    assert label_notes(source).remarks == ("labels are from 2 columns of zeros and ones (car, bus) of labels.csv",)


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        (["3", "1", ""], ("0", "1", "2", "3"), [3, 1, -1]),
        (["3.0", "1.0", ""], ("0", "1", "2", "3"), [3, 1, -1]),
        (["03", "1", ""], ("03", "1"), [0, 1, -1]),
        (["True", "False", "True"], ("False", "True"), [1, 0, 1]),
        ([" cat", "dog ", ""], ("cat", "dog"), [0, 1, -1]),
        (["-1", "1", "0"], ("0", "1"), [-1, 1, 0]),
    ],
)
def test_values_in_text(values: list[str], classes: tuple[str, ...], numbers: list[int], images: Path, tmp_path: Path):
    text = "name,label\n" + "".join(f"{number},{value}\n" for number, value in enumerate(values, 1))
    source = with_table(images, text, tmp_path)
    assert (source.classes, labels(source).tolist()) == (classes, numbers)


def test_columns_are_chosen_and_missing_ones_listed(images: Path, tmp_path: Path) -> None:
    text = "name,fine_label,coarse_label\n1,x,u\n2,y,u\n3,x,v\n"
    source = with_table(images, text, tmp_path)
    assert classes_of(source) == ["x", "y", "x"]
    assert label_notes(source).origin == "labels.csv, column 'fine_label'"
    assert label_notes(source).remarks == (
        "labels are from column 'fine_label', although 'coarse_label' would do as well: choose with --label-column",
    )
    assert classes_of(with_table(images, text, tmp_path, label="Coarse-Label")) == ["u", "u", "v"]
    with pytest.raises(
        BadConfig, match=r"no column 'lable' \(--label-column\).*the columns are: fine_label, coarse_label"
    ):
        with_table(images, text, tmp_path, label="lable")
    with pytest.raises(
        UserError, match=r"no column has a name such as label or class; there are: a, b; choose one with"
    ):
        with_table(images, "name,a,b\n1,x,u\n", tmp_path)
    with pytest.raises(
        UserError, match=r"such as image, file_name or path; there are: a, b, label; choose one with --image"
    ):
        with_table(images, "a,b,label\n1,x,u\n", tmp_path)


def test_files_order_and_fingerprint_are_those_of_the_images(images: Path, tmp_path: Path) -> None:
    plain, labeled = open_source(images), with_table(images, "name,label\n1,x\n", tmp_path)
    assert names(labeled) == names(plain)
    one, other = Fingerprint.of(plain), Fingerprint.of(labeled)
    assert one is not None
    assert other is not None
    assert one.key == other.key


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_the_metadata_of_an_image_folder(name: str, images: Path) -> None:
    rows = {"file_name": ["a/1.png", "a/2.png", "b/3.png"], "label": ["x", "y", "x"], "text": ["u", "v", "w"]}
    if name.endswith("parquet"):
        pq.write_table(pa.table(rows), images / name)
    else:
        pairs = list(zip(rows["file_name"], rows["label"], strict=True))
        lines = ["file_name,label", *map(",".join, pairs)]
        if name.endswith("jsonl"):
            lines = [f'{{"file_name": "{file}", "label": "{label}"}}' for file, label in pairs]
        (images / name).write_text("\n".join(lines))
    source = open_source(images)
    assert (classes_of(source), names(source)) == (["x", "y", "x"], ["a/1.png", "a/2.png", "b/3.png"])
    assert label_notes(source).origin == f"{name}, column 'label'"


@pytest.mark.parametrize("text", ["file_name,text\na/1.png,a cat\n", "broken", "file_name,label\nzzz.png,x\n"])
def test_metadata_without_labels_leaves_those_by_folders(text: str, images: Path) -> None:
    (images / "metadata.csv").write_text(text)
    assert classes_of(open_source(images)) == ["a", "a", "b"]


def test_the_cells(shared: Path) -> None:
    cells = shared / "data" / "cells"
    source = open_source(cells / "images", columns=Columns(labels=str(cells / "classes.csv")))
    known = np.loadtxt(cells / "classes.csv", delimiter=",", skiprows=1, dtype=int)
    assert labels(source).tolist() == known[:, 1].tolist()
    assert [int(Path(name).stem) for name in names(source)] == known[:, 0].tolist()
    assert label_notes(source).remarks == ()
    both = open_source(cells, columns=Columns(labels=str(cells / "classes.csv")))
    assert (labels(both) < 0).all()
    assert (
        "300 names mean one of several images, as '1' means images/001.png or masks/001.png" in label_notes(both).absent
    )
