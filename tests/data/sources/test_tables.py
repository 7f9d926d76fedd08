import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.tables import read_table
from coterie.errors import UserError

ROWS = {"file": ["a.png", "b c.png"], "label": ["cat", "big dog"]}


@pytest.mark.parametrize(
    "content",
    [
        b"file,label\na.png,cat\nb c.png,big dog\n",
        b"\xef\xbb\xbffile,label\r\na.png,cat\r\n\r\n b c.png,big dog",
        b"file;label\na.png;cat\nb c.png;big dog\n",
        b"file\tlabel\na.png\tcat\nb c.png\tbig dog\n",
        b"file|label\na.png|cat\nb c.png|big dog\n",
        b'"file","label"\n"a.png","cat"\n"b c.png","big dog"\n',
        "file,label\na.png,cat\nb c.png,big dog\n".encode("utf-16"),
        b"a.png,cat\nb c.png,big dog\n",  # no header
        b'{"file": "a.png", "label": "cat"}\n\n{"label": "big dog", "file": "b c.png"}\n',
    ],
)
def test_tables_are_recognized_by_their_content(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.anything"
    path.write_bytes(content)
    table = read_table(str(path))
    assert (table.names, table.rows) == (("file", "label"), 2)
    assert {name: [each.strip() for each in table.column(name)] for name in table.names} == ROWS


def test_parquet_too(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"]}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"file": ["a.png"], "label": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "labels.csv")  # whatever it is called
    found = read_table(str(tmp_path / "labels.csv"))
    assert (found.names, found.column("label"), found.class_names("label")) == (("file", "label"), [1], ["cat", "dog"])


def test_names_and_labels_with_spaces_between(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("n01/a b.JPEG 3\nn02/c.JPEG 4\n")
    table = read_table(str(tmp_path / "val.txt"))
    assert (table.column("file"), table.column("label")) == (["n01/a b.JPEG", "n02/c.JPEG"], ["3", "4"])


def test_short_rows_and_quoted_delimiters(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('file,label,note\na.png\nb.png,"cat, black",x\n')
    table = read_table(str(tmp_path / "t.csv"))
    assert (table.column("label"), table.column("note")) == (["", "cat, black"], ["", "x"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "this table is empty"),
        (b"PK\x03\x04 a spreadsheet", "a file of Excel or the like"),
        (b"PAR1 broken", "not a readable parquet file"),
        (b"file,label\n\xff,cat\n", "not a table of UTF-8 text"),
        (b'{"file": 1}\nno json\n', "line 2 is not JSON"),
        (b"a,b\n\0\n", "not a table of text"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_table(str(tmp_path / "t.csv"))
    assert str(tmp_path / "t.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_table(str(tmp_path / "t.csv"))
