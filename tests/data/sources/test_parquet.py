import json
import os
import pickle
from multiprocessing import Queue, get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.data.sources.parquet import ParquetTable, open_tables
from coterie.data.sources.source import Concatenated, Subset, image_remarks, label_matrix, label_notes, labels
from coterie.embedding.cache import source_key
from coterie.errors import BadImage, NoImages, UserError

IMAGES = [f"image {n}".encode() * (n + 1) for n in range(1100)]  # several batches of rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(path: Path, metadata: dict[bytes, bytes] | None = None, **columns: object) -> str:
    made = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(made, path, row_group_size=300)
    return str(path)


def structs(images: list[bytes | None], paths: list[str | None] | None = None) -> pa.Array:
    rows = [{"bytes": image, "path": path} for image, path in zip(images, paths or [None] * len(images), strict=True)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def images(source) -> list[bytes]:
    return [source[index] for index in range(len(source))]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "column",
    [pa.array(IMAGES), pa.array(IMAGES, pa.large_binary()), pa.array(IMAGES, pa.binary_view()), structs(IMAGES)],
    ids=["binary", "large_binary", "binary_view", "struct"],
)
def test_images_are_in_the_order_of_the_rows(column, in_memory, tmp_path):
    source = ParquetTable(table(tmp_path / "x.parquet", image=column), in_memory)
    assert images(source) == IMAGES
    assert [source.name(index) for index in (0, 1099)] == ["x/00000000", "x/00001099"]
    assert (source.classes, source.label(3)) == ((), None)
    for index in (-1, 1100):
        with pytest.raises(IndexError):
            source[index]


def test_the_column_of_images_is_found(tmp_path):
    path = tmp_path / "x.parquet"
    two = IMAGES[:2]
    assert images(ParquetTable(table(path, img=two, mask=two[::-1]))) == two
    assert images(ParquetTable(table(path, mask=two[::-1], image=structs(two)))) == two
    assert images(ParquetTable(table(path, photograph=two, number=[1, 2]))) == two
    with pytest.raises(UserError, match=r"the columns are: left, right$"):
        ParquetTable(table(path, left=two, right=two))
    with pytest.raises(UserError, match=r"no column of images .* the columns are: image, number$"):
        ParquetTable(table(path, image=["a path", "b path"], number=[1, 2]))


def test_paths_are_names(tmp_path):
    column = structs(IMAGES[:3], ["cat/\u96ea.jpg", None, ""])
    source = ParquetTable(table(tmp_path / "x.parquet", image=column))
    assert [source.name(index) for index in range(3)] == ["cat/\u96ea.jpg", "x/00000001", "x/00000002"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_row_without_bytes_is_a_bad_image(in_memory, tmp_path):
    rows = pa.array([{"bytes": b"x"}, {"bytes": None}, None], pa.struct([("bytes", pa.binary())]))
    source = ParquetTable(table(tmp_path / "x.parquet", image=rows), in_memory)
    assert source[0] == b"x"
    for index in (1, 2):
        with pytest.raises(BadImage, match="no bytes"):
            source[index]


def huggingface(**feature: object) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": {"label": feature}}}).encode()}


@pytest.mark.parametrize(
    ("values", "metadata", "classes", "numbers"),
    [
        ([1, 0, 1], huggingface(_type="ClassLabel", names=["cat", "dog"]), ("cat", "dog"), [1, 0, 1]),
        ([1, 0, 2], huggingface(_type="ClassLabel", names=["cat", "dog"]), ("cat", "dog", "2"), [1, 0, 2]),
        ([-1, -1, -1], huggingface(_type="ClassLabel", names=["cat", "dog"]), (), [-1, -1, -1]),
        ([1, 0, 2], huggingface(_type="Value"), ("0", "1", "2"), [1, 0, 2]),
        ([1, 0, 2], {b"huggingface": b"{"}, ("0", "1", "2"), [1, 0, 2]),
        ([1, None, 2], None, ("0", "1", "2"), [1, -1, 2]),
        (["dog", None, "cat"], None, ("cat", "dog"), [1, -1, 0]),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), None, ("cat", "dog"), [1, 0, 1]),
        ([0.5, 0.1, 0.2], None, (), [-1, -1, -1]),
        ([[1], [2], [3]], None, (), [-1, -1, -1]),
    ],
)
def test_labels(values, metadata, classes, numbers, tmp_path):
    source = ParquetTable(table(tmp_path / "x.parquet", metadata, image=IMAGES[:3], label=values))
    assert (source.classes, labels(source).tolist()) == (classes, numbers)
    assert [source.label(index) for index in range(3)] == [None if number < 0 else number for number in numbers]


@pytest.mark.parametrize(
    ("values", "feature", "classes", "carried"),
    [
        ([[1, 0], [], None, [2]], None, ("0", "1", "2"), [[0, 1], [], None, [2]]),
        ([[1, -1], [-1], [0, 1, 1], [None]], None, ("0", "1"), [[1], None, [0, 1], None]),
        ([["dog", "cat"], ["cat", ""], None, []], None, ("cat", "dog"), [[0, 1], [0], None, []]),
        ([[1], [0], [], [1, 0]], {"feature": {"names": ["cat", "dog"]}}, ("cat", "dog"), [[1], [0], [], [0, 1]]),
        ([[1], [0], [], [1, 0]], [{"names": ["cat", "dog", "eel"]}], ("cat", "dog", "eel"), [[1], [0], [], [0, 1]]),
        ([[1], [0], [], [1, 0]], {"feature": 3}, ("0", "1"), [[1], [0], [], [0, 1]]),
        ([[1], [0], [], [1, 0]], [], ("0", "1"), [[1], [0], [], [0, 1]]),
        (pa.array([[1, 0], [1, 1]] * 2, pa.list_(pa.int8(), 2)), None, ("0", "1"), [[0], [0, 1]] * 2),  # one per class
        (pa.array([["b"], ["a"]] * 2, pa.large_list(pa.string())), None, ("a", "b"), [[1], [0]] * 2),
        (
            pa.array([["b"], ["a"]] * 2, pa.list_(pa.dictionary(pa.int32(), pa.string()))),
            None,
            ("a", "b"),
            [[1], [0]] * 2,
        ),
    ],
)
@pytest.mark.parametrize("column", ["label", "labels"])
def test_several_labels_per_image(column, values, feature, classes, carried, tmp_path):
    metadata = {b"huggingface": json.dumps({"info": {"features": {column: feature}}}).encode()} if feature else None
    source = ParquetTable(table(tmp_path / "x.parquet", metadata, image=IMAGES[:4], **{column: values}))
    found = label_matrix(pickle.loads(pickle.dumps(source)))
    assert found.classes == classes
    assert found.known.tolist() == [row is not None for row in carried]
    assert [np.flatnonzero(row).tolist() for row in found.rows] == [row or [] for row in carried]
    assert (source.classes, labels(source).tolist()) == ((), [-1] * 4)  # no image has a single label


def test_single_labels_as_a_matrix(tmp_path):
    three = IMAGES[:3]
    found = label_matrix(ParquetTable(table(tmp_path / "a.parquet", image=three, label=["dog", None, "cat"])))
    assert (found.classes, found.known.tolist()) == (("cat", "dog"), [True, False, True])
    assert found.rows.tolist() == [[False, True], [False, False], [True, False]]
    for values in ([[], None, []], [[-1], [], None], [[0.5]] * 3, [[[1]]] * 3):
        found = label_matrix(ParquetTable(table(tmp_path / "b.parquet", image=three, label=values)))
        assert (found.rows.shape, found.known.any(), found.classes) == ((3, 0), False, ())
    both = ParquetTable(table(tmp_path / "c.parquet", image=three, label=[2, 0, 1], labels=[["a"], ["a", "b"], []]))
    assert labels(both).tolist() == [2, 0, 1]
    assert label_matrix(both).rows.tolist() == [[True, False], [True, True], [False, False]]


def test_several_labels_in_concatenated_sources_and_subsets(tmp_path):
    table(tmp_path / "0.parquet", image=IMAGES[:2], labels=[["dog", "cat"], None])
    table(tmp_path / "1.parquet", image=IMAGES[2:4], labels=[["eel"], ["bee", "cat"]])
    table(tmp_path / "2.parquet", image=IMAGES[4:6], label=["ant", "dog"])
    source = open_source(f"{tmp_path}/*.parquet")
    found = label_matrix(source)
    names = [[found.classes[n] for n in np.flatnonzero(row)] for row in found.rows]
    assert found.classes == ("cat", "dog", "bee", "eel", "ant")
    assert names == [["cat", "dog"], [], ["eel"], ["cat", "bee"], ["ant"], ["dog"]]
    assert found.known.tolist() == [True, False, True, True, True, True]
    some = label_matrix(Subset(source, np.array([3, 1, 0])))
    assert (some.classes, some.known.tolist()) == (found.classes, [True, False, True])
    assert some.rows.tolist() == found.rows[[3, 1, 0]].tolist()
    own = label_matrix(Subset(source, np.array([3, 0]), np.array([1, -1]), ("x", "y")))
    assert (own.rows.tolist(), own.known.tolist(), own.classes) == ([[0, 1], [0, 0]], [True, False], ("x", "y"))


def test_several_tables(tmp_path):
    first = table(tmp_path / "0.parquet", image=IMAGES[:2], label=["dog", "cat"])
    table(tmp_path / "1.parquet", image=IMAGES[2:4], label=["bird", "cat"])
    source = open_source(f"{tmp_path}/*.parquet")
    assert images(source) == IMAGES[:4]
    assert source.classes == ("cat", "dog", "bird")
    assert labels(source).tolist() == [1, 0, 2, 0]
    assert isinstance(open_source(first), ParquetTable)


def test_large_tables_are_unpacked_once_and_mapped(cache, tmp_path):
    paths = [table(tmp_path / f"{n}.parquet", image=IMAGES[n::2]) for n in range(2)]
    open_tables(paths, memory_limit=10**9)
    assert not cache.exists()
    tables = open_tables(paths, memory_limit=1000)
    assert images(Concatenated(tables)) == IMAGES[0::2] + IMAGES[1::2]
    unpacked = sorted(cache.glob("tables/*/*.arrow"))
    assert len(unpacked) == 2
    assert not list(cache.glob("tables/.*.part"))
    before = [path.stat().st_mtime_ns for path in unpacked]
    assert images(open_tables(paths[:1], memory_limit=1000)[0]) == IMAGES[0::2]
    assert [path.stat().st_mtime_ns for path in unpacked] == before
    os.utime(paths[0], (1, 1))  # a changed table is unpacked again
    open_tables(paths[:1], memory_limit=1000)
    assert len(list(cache.glob("tables/*/*.arrow"))) == 3


def test_a_cache_folder_that_is_not_writable(cache, tmp_path):
    path = table(tmp_path / "x.parquet", image=IMAGES)
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(UserError, match="COTERIE_CACHE") as found:
        ParquetTable(path, in_memory=False)
    assert len(str(found.value).splitlines()) == 1


def test_a_full_disk_leaves_nothing_behind(cache, tmp_path, monkeypatch):
    path = table(tmp_path / "x.parquet", image=IMAGES)
    monkeypatch.setattr(pa, "OSFile", lambda *_: open("/dev/full", "wb", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(UserError, match="No space left"):
        ParquetTable(path, in_memory=False)
    monkeypatch.undo()
    monkeypatch.setenv("COTERIE_CACHE", str(cache))
    assert not list(cache.glob("tables/*/*.arrow")) + list(cache.glob("tables/.*.part"))
    assert images(ParquetTable(path, in_memory=False)) == IMAGES


def test_a_damaged_unpacked_table_is_reported(cache, tmp_path):
    path = table(tmp_path / "x.parquet", image=IMAGES)
    ParquetTable(path, in_memory=False)
    next(cache.glob("tables/*/*.arrow")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="this unpacked table is damaged; delete it"):
        ParquetTable(path, in_memory=False)


def read_all(sources: list[ParquetTable], order: list[int], results: Queue) -> None:
    for source in sources:
        results.put((order, [source[index] for index in order]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(method, tmp_path):
    path = table(tmp_path / "x.parquet", image=IMAGES, label=list(range(1100)))
    sources = [ParquetTable(path, in_memory) for in_memory in (True, False)]
    order = np.random.default_rng(0).integers(0, 1100, 300).tolist()
    context = get_context(method)
    results = context.Queue()
    worker = context.Process(target=read_all, args=(sources, order, results))
    worker.start()
    for _ in sources:
        assert results.get(timeout=200) == (order, [IMAGES[index] for index in order])
    worker.join()


def test_images_are_not_pickled(tmp_path):
    source = ParquetTable(table(tmp_path / "x.parquet", image=[bytes(10**6)]))
    packed = pickle.dumps(source)
    assert len(packed) < 10_000
    assert images(pickle.loads(packed)) == [bytes(10**6)]


def test_every_mistake_is_one_plain_line(tmp_path):
    whole = Path(table(tmp_path / "x.parquet", image=IMAGES)).read_bytes()
    path = tmp_path / "broken.parquet"
    for data in (b"", b"no parquet" * 100, whole[:-500], whole[:2000]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not a readable parquet file") as found:
            open_source(str(path))
        assert len(str(found.value).splitlines()) == 1
    path.write_bytes(whole[:200] + b"\xff" * 2000 + whole[2200:])  # the footer is intact, the pages are not
    with pytest.raises(UserError, match="not a readable parquet file"):
        open_source(str(path))
    with pytest.raises(NoImages, match="no rows"):
        open_source(table(path, image=pa.array([], pa.binary())))
    with pytest.raises(NoImages, match="no rows"):
        open_tables([table(path, image=pa.array([], pa.binary()))], memory_limit=-1)


def test_cifar10(shared):
    folder = shared / "data" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no CIFAR-10 in {folder}")
    source = open_source(folder / "train.parquet")
    assert len(source) == 50_000
    assert source.classes[:2] == ("airplane", "automobile")
    assert len(source.classes) == 10
    assert np.bincount(labels(source)).tolist() == [5000] * 10
    assert source.name(0) == "automobile/1690.jpg"
    assert source[49_999].startswith(b"\xff\xd8")
    assert open_source(folder / "test.parquet").classes == source.classes


@pytest.mark.parametrize(
    ("column", "values", "classes", "numbers"),
    [
        ("Target", [1, 0, 1], ("0", "1"), [1, 0, 1]),
        ("Fine Label", ["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ("cls", [True, None, False], ("False", "True"), [1, -1, 0]),
        ("category", [2.0, 0.0, float("nan")], ("0", "1", "2"), [2, 0, -1]),
        ("y", pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b"), [1, 0, 1]),
        ("species", pa.array([3, 2, 3], pa.uint8()), ("0", "1", "2", "3"), [3, 2, 3]),
        ("text", ["b", "a", "b"], (), [-1, -1, -1]),
    ],
)
def test_columns_of_labels_are_found_by_common_names(column, values, classes, numbers, tmp_path):
    source = ParquetTable(table(tmp_path / "x.parquet", image=IMAGES[:3], **{column: values}))
    assert (source.classes, labels(source).tolist()) == (classes, numbers)
    if not classes:
        assert label_notes(source).absent.endswith(f"there are: image, {column}; choose one with --label-column")
        chosen = ParquetTable(source._path, columns=Columns(label=column))
        assert labels(chosen).tolist() == [1, 0, 1]


def test_of_two_columns_of_labels_one_is_taken_and_said(tmp_path):
    path = table(tmp_path / "x.parquet", coarse_label=[7, 7, 8], fine_label=[1, 2, 3], img=IMAGES[:3])
    source = open_source(path)
    assert labels(source).tolist() == [1, 2, 3]
    assert label_notes(source).remarks == (
        "labels are from column 'fine_label', although 'coarse_label' would do as well: choose with --label-column",
    )
    chosen = open_source(path, columns=Columns(label="COARSE_LABEL"))
    assert (labels(chosen).tolist(), label_notes(chosen).remarks) == ([7, 7, 8], ())
    several = Concatenated([open_source(path)] * 3)
    assert len(label_notes(several).remarks) == 1


def test_a_column_that_holds_no_labels_is_passed_over_or_refused(tmp_path):
    path = table(tmp_path / "x.parquet", image=IMAGES[:3], target=[0.5, 1.5, 2.0], category=["a", "b", "a"])
    assert open_source(path).classes == ("a", "b")
    with pytest.raises(
        UserError, match=r"column 'target' holds no labels \(double\): choose another with --label-column"
    ):
        open_source(path, columns=Columns(label="target"))
    with pytest.raises(UserError, match=r"no column 'kind' .*the columns are: image, target, category"):
        open_source(path, columns=Columns(label="kind"))


def test_the_column_of_images_is_chosen(tmp_path, cache):
    path = table(tmp_path / "x.parquet", before=IMAGES[:3], after=IMAGES[3:6], label=[0, 1, 0])
    with pytest.raises(
        UserError, match="which column holds the images\\? Choose with --image-column; the columns are: before"
    ):
        open_source(path)
    source = open_source(path, columns=Columns(image="After"))
    assert images(source) == IMAGES[3:6]
    for column, expected in (("before", IMAGES[:3]), ("after", IMAGES[3:6])):
        assert images(ParquetTable(path, False, Columns(image=column))) == expected
    keys = {source_key(open_source(path, columns=Columns(image=column))) for column in ("before", "after")}
    assert len(keys) == 2  # or the embeddings of one would be taken for those of the other
    with pytest.raises(UserError, match=r"column 'label' holds no bytes of images \(int64\)"):
        open_source(path, columns=Columns(image="label"))
    both = open_source(table(tmp_path / "y.parquet", png=IMAGES[:3], image=IMAGES[3:6]))
    assert images(both) == IMAGES[3:6]
    assert image_remarks(both) == (
        "images are from column 'image', although 'png' would do as well: choose with --image-column",
    )


def test_one_value_per_class(tmp_path):
    values = [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], None]
    found = label_matrix(ParquetTable(table(tmp_path / "x.parquet", image=IMAGES[:3], labels=values)))
    assert found.rows[:, 1:].tolist() == [[True, True], [False, False], [False, False]]
    assert found.known.tolist() == [True, True, False]


@pytest.mark.parametrize("spec", ["", "/**/*.parquet", "/*/*.parquet"])
def test_folders_called_key_value_are_columns(spec, tmp_path):
    for number, folder in enumerate(["class=dog", "class=cat", "class=a%20b", "class=__HIVE_DEFAULT_PARTITION__"]):
        (tmp_path / "set" / folder).mkdir(parents=True)
        table(tmp_path / "set" / folder / "part-0.parquet", image=[IMAGES[number]], other=[5])
    source = open_source(f"{tmp_path}/set{spec}")
    found = {source[place]: source.label(place) for place in range(4)}
    classes = {image: None if number is None else source.classes[number] for image, number in found.items()}
    assert classes == {IMAGES[0]: "dog", IMAGES[1]: "cat", IMAGES[2]: "a b", IMAGES[3]: None}
    other = open_source(f"{tmp_path}/set{spec}", columns=Columns(label="other"))

    assert set(np.array(other.classes)[labels(other)]) == {"5"}


def test_cifar(shared):
    source = open_source(shared / "data" / "cifar10" / "test.parquet")
    assert (len(source), len(source.classes), label_notes(source).remarks) == (10_000, 10, ())
    assert np.bincount(labels(source)).tolist() == [1000] * 10
