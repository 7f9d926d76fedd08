import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from coterie.config.method_name import names_a_source
from coterie.data.decoding.decode import decode
from coterie.data.sources.arrow_table import ArrowTable
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import absolute, open_source
from coterie.data.sources.source import image_remarks, label_matrix, labels
from coterie.errors import BadImage, NoImages, UserError
from tests.data.pictures import encoded, photo
from tests.data.sources.helpers import names

HF = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
ROWS = [{"bytes": encoded(photo(n)), "path": None} for n in range(5)]


def saved(folder: Path, table: pa.Table, files: int = 1, chosen: list[int] | None = None) -> Path:
    """What save_to_disk writes: streams of a few rows per batch, and a file that names them."""
    folder.mkdir(parents=True)
    table = table.replace_schema_metadata({"huggingface": json.dumps(HF)})
    state = {"_data_files": [{"filename": f"data-{n:05d}-of-{files:05d}.arrow"} for n in range(files)]}
    each = -(-len(table) // files)
    for number, data in enumerate(state["_data_files"]):
        with pa.ipc.new_stream(str(folder / data["filename"]), table.schema) as writer:
            writer.write_table(table.slice(number * each, each), max_chunksize=2)
    if chosen is not None:
        state["_indices_data_files"] = [{"filename": "indices.arrow"}]
        rows = pa.table({"indices": pa.array(chosen, pa.uint64())})
        with pa.ipc.new_stream(str(folder / "indices.arrow"), rows.schema) as writer:
            writer.write_table(rows)
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("files", [1, 2])
def test_a_saved_dataset_is_a_source(files, tmp_path):
    table = pa.table({"image": ROWS, "label": [0, 1, None, 1, 0]})
    source = open_source(saved(tmp_path / "bees", table, files))
    assert isinstance(source, ArrowTable)
    assert (names(source)[4], source.classes, labels(source).tolist()) == (
        "bees/00000004",
        ("ant", "bee"),
        [0, 1, -1, 1, 0],
    )
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for index in range(5):
            np.testing.assert_array_equal(decode(copy[index]), photo(index))
    moved = open_source((tmp_path / "bees").rename(tmp_path / "elsewhere"))
    assert Fingerprint.of(source).key != Fingerprint.of(moved).key  # its files are missing now
    again = open_source((tmp_path / "elsewhere").rename(tmp_path / "bees"))
    assert Fingerprint.of(again).key == Fingerprint.of(source).key
    with pytest.raises(IndexError):
        source[5]
    assert len(open_source(f"{tmp_path}/bees/*.arrow")) == 5


def test_chosen_rows_and_lists_of_labels(tmp_path):
    table = pa.table({"image": ROWS, "label": [[0], [], [1], [0, 1], None]})
    source = open_source(saved(tmp_path / "x", table, chosen=[3, 0]))
    assert [decode(source[index]).tolist() for index in range(2)] == [photo(3).tolist(), photo(0).tolist()]
    assert label_matrix(source).rows.tolist() == [[True, True], [True, False]]
    with pytest.raises(UserError, match="names rows that are not there"):
        open_source(saved(tmp_path / "y", table, chosen=[5]))


def test_rows_without_bytes_name_files_beside_the_dataset(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(ROWS[1]["bytes"])
    paths = ["../pictures/1.png", str(tmp_path / "pictures" / "1.png"), "missing.png", None]
    rows = [ROWS[0], *({"bytes": None, "path": path} for path in paths)]
    source = open_source(
        saved(
            tmp_path / "x",
            pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}),
        )
    )
    assert source[1] == source[2] == ROWS[1]["bytes"]
    assert names(source)[1] == "../pictures/1.png"
    for index, reason in ((3, r"x/missing.png: cannot be read: No such file"), (4, "no bytes in this row")):
        with pytest.raises(BadImage, match=reason):
            source[index]
    assert image_remarks(source) == (
        f"{tmp_path}/x: 1 row holds neither an image nor a path: it counts as a bad image",
    )
    before = Fingerprint.of(source)
    (tmp_path / "pictures" / "1.png").write_bytes(b"another size")
    assert not before.same_images(Fingerprint.of(source))


def test_every_mistake_is_one_plain_line(tmp_path):
    table = pa.table({"image": ROWS, "label": [0, 1, 0, 1, 0]})
    splits = tmp_path / "splits"
    for name in ("train", "test"):
        saved(splits / name, table)
    (splits / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    text = saved(tmp_path / "text", pa.table({"text": ["a"]}))
    cut = saved(tmp_path / "cut", table)
    data = cut / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:900])
    state = saved(tmp_path / "state", table)
    (state / "state.json").write_text("[1]")
    missing = saved(tmp_path / "missing", table)
    (missing / "data-00000-of-00001.arrow").unlink()
    (tmp_path / "below" / "deep").mkdir(parents=True)
    saved(tmp_path / "below" / "deep" / "x", table)
    cases = {splits: f"the splits test, train: name one or more, such as {splits}/train", text: "no column of images"}
    cases |= {cut: "not a readable Arrow file", state: "state.json of this dataset cannot be read"}
    cases |= {
        missing: "not a readable Arrow file",
        tmp_path / "below": f"give them as '{tmp_path}/below/deep/x/\\*.arrow'",
    }
    for folder, reason in cases.items():
        with pytest.raises(UserError, match=reason) as found:
            open_source(folder)
        assert len(str(found.value).splitlines()) == 1
    (splits / "test" / "state.json").unlink()
    assert len(open_source(splits)) == 5
    with pytest.raises(NoImages, match="no rows"):
        open_source(saved(tmp_path / "empty", table.slice(0, 0)))


def test_the_hub_needs_its_library_and_a_network(monkeypatch):
    assert absolute("hf:user/pictures") == "hf:user/pictures"
    assert names_a_source("hf:user/pictures")
    for spec in ("hf:", "hf:a:b:c:d", "hf:a/b/c"):
        with pytest.raises(UserError, match="write hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT"):
            open_source(spec)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'coterie\[hf\]'"):
        open_source("hf:user/pictures:test")
