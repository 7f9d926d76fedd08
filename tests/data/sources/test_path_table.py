"""Tables of image paths as sources."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.columns import Columns
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import open_source
from coterie.data.sources.source import label_matrix, label_notes, labels
from coterie.errors import NoImages, UserError
from tests.data.sources.helpers import names, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, "x/1.png", "x/2.png", "3.jpg")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_images_and_labels_in_the_order_of_the_rows(suffix: str, folder: Path) -> None:
    paths, classes = ["3.jpg", "./x/1.png", f"{folder}/x/2.png"], ["b", "a", "b"]
    table = folder / f"images{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": [1, 2, 3], "path": paths, "label": classes}), table)
    elif suffix == ".jsonl":
        table.write_text(
            "".join(f'{{"path": "{path}", "label": "{each}"}}\n' for path, each in zip(paths, classes, strict=True))
        )
    else:
        comma = "\t" if suffix == ".tsv" else ","
        rows = zip(["id", "7", "8", "9"], ["path", *paths], ["label", *classes], strict=True)
        table.write_text("".join(comma.join(row) + "\n" for row in rows))
    source = open_source(table)
    assert names(source) == paths
    assert [source[place] for place in range(3)] == [b"x"] * 3
    assert (source.classes, labels(source).tolist()) == (("a", "b"), [1, 0, 1])
    assert "column 'label'" in label_notes(source).origin
    found = Fingerprint.of(source)
    assert found is not None
    assert found.files["size"].to_pylist() == [1, 1, 1]


def test_without_labels_and_with_several(folder: Path) -> None:
    (folder / "a.csv").write_text("path\n3.jpg\nx/1.png\n")
    assert (len(open_source(folder / "a.csv")), open_source(folder / "a.csv").classes) == (2, ())
    (folder / "b.csv").write_text("path,label\n3.jpg,u\nx/1.png,u\n3.jpg,v\n")
    source = open_source(folder / "b.csv")
    assert names(source) == ["3.jpg", "x/1.png"]
    assert label_matrix(source).rows.tolist() == [[True, True], [True, False]]


def test_the_columns_are_chosen(folder: Path) -> None:
    (folder / "a.csv").write_text("before,after,kind\n3.jpg,x/1.png,u\n3.jpg,x/2.png,v\n")
    source = open_source(folder / "a.csv", columns=Columns(image="after", label="kind"))
    assert (names(source), source.classes) == (["x/1.png", "x/2.png"], ("u", "v"))


@pytest.mark.parametrize(
    ("text", "said", "kind"),
    [
        ("a,b\n1,2\n", "no column holds paths of images; there are: a, b; choose one with --image-column", UserError),
        ("path,label\n", "no column holds paths of images", UserError),
        ("url\nhttps://x.org/1.jpg\n", "holds addresses: fetch these images", UserError),
    ],
)
def test_what_is_no_table_of_paths(text: str, said: str, kind: type, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(kind, match=said):
        open_source(tmp_path / "a.csv")


def test_a_wanted_column_without_paths(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\n,x\n")
    with pytest.raises(NoImages, match="no paths in column 'path'"):
        open_source(tmp_path / "a.csv", columns=Columns(image="path"))
