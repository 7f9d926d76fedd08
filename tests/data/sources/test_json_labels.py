"""Labels in files and folders of tar shards."""

import io
import tarfile
from pathlib import Path

import pytest

from coterie.data.sources.columns import Columns
from coterie.data.sources.json_labels import json_label
from coterie.data.sources.open import open_source
from coterie.data.sources.source import label_matrix, label_notes, labels
from coterie.data.sources.tar import TarShards
from coterie.data.sources.tar_index import MIN_SAVED_IMAGES


def shard(path: Path, files: dict[str, str]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return str(path)


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ('{"label": 3}', None, ["3"]),
        ('{"y": 1, "Category": "cat", "caption": "dog"}', None, ["cat"]),
        ('{"label": 2.0}', None, ["2"]),
        ('{"label": true}', None, ["True"]),
        ('{"label": ["a", "b"]}', None, ["a", "b"]),
        ('{"label": 0.5, "class": "x"}', None, ["x"]),
        ('{"caption": "a cat"}', None, []),
        ('{"meta": {"class": "cat"}}', "meta.class", ["cat"]),
        ('{"meta": {"Class": "cat"}}', "meta.class", ["cat"]),
        ('{"a.b": "x", "a": {"b": "y"}}', "a.b", ["x"]),
        ('{"a.b": {"c": "x"}}', "a.b.c", ["x"]),
        ('{"objects": [{"name": "x"}, {"name": "y"}]}', "objects.1.name", ["y"]),
        ('{"label": 3}', "class", []),
        ('{"label": null}', "label", []),
        ("no json", "label", []),
        ("[1]", "label", []),
    ],
)
def test_the_label_in_a_json_object(text: str, key: str | None, found: list[str]) -> None:
    assert list(json_label(text, key)) == found


def test_json_beside_images_and_the_key_that_is_wanted(tmp_path: Path) -> None:
    files = {}
    for number, (label, color) in enumerate([("cat", 1), ("dog", 0), ("cat", 0)]):
        files |= {
            f"{number}.jpg": "x",
            f"{number}.json": f'{{"label": "{label}", "look": {{"color": {color}}}}}',
            f"{number}.txt": "7",
        }
    path = shard(tmp_path / "x.tar", files)
    assert (TarShards([path]).classes, labels(TarShards([path])).tolist()) == (("cat", "dog"), [0, 1, 0])
    chosen = open_source(path, columns=Columns(label_key="look.color"))
    assert (chosen.classes, labels(chosen).tolist()) == (("0", "1"), [1, 0, 0])
    missing = open_source(path, columns=Columns(label_key="size"))
    assert (missing.classes, label_notes(missing).absent) == ((), "no .json file in its shards has the key 'size'")


def test_a_cls_file_goes_before_json_unless_a_key_is_wanted(tmp_path: Path) -> None:
    for order in ("cls json", "json cls"):
        text = {"cls": "5", "json": '{"label": 3}'}
        path = shard(tmp_path / "x.tar", {"0.jpg": "x"} | {f"0.{kind}": text[kind] for kind in order.split()})
        assert labels(TarShards([path])).tolist() == [5]
        assert labels(TarShards([path], "label")).tolist() == [3]


def test_several_labels(tmp_path: Path) -> None:
    files = {"0.jpg": "x", "0.json": '{"labels": ["b", "a"]}', "1.jpg": "x", "1.json": '{"labels": "b"}', "2.jpg": "x"}
    source = TarShards([shard(tmp_path / "x.tar", files)])
    matrix = label_matrix(source)
    assert (matrix.classes, source.classes) == (("a", "b"), ())
    assert (matrix.rows.tolist(), matrix.known.tolist()) == (
        [[True, True], [False, True], [False, False]],
        [True, True, False],
    )


def test_the_index_of_one_key_is_not_that_of_another(cache: Path, tmp_path: Path) -> None:
    files = {}
    for number in range(MIN_SAVED_IMAGES):
        files |= {f"{number}.jpg": "x", f"{number}.json": f'{{"label": {number % 3}, "other": {number % 2}}}'}
    path = shard(tmp_path / "x.tar", files)
    for _ in range(2):
        for key, count in ((None, 3), ("other", 2), ("label", 3)):
            found = labels(TarShards([path], key)).tolist()
            assert found == [number % count for number in range(MIN_SAVED_IMAGES)]
    assert len(list(cache.glob("index/*/*.3.arrow"))) == 3


@pytest.mark.parametrize(
    ("paths", "classes", "numbers"),
    [
        (["cat/0.jpg", "dog/1.jpg", "cat/x/2.jpg"], ("cat", "dog"), [0, 1, 0]),
        (["./set/cat/0.jpg", "set/dog/1.jpg"], ("cat", "dog"), [0, 1]),
        (["cat/0.jpg", "1.jpg"], (), [-1, -1]),
        (["set/cat/0.jpg", "set/1.jpg"], (), [-1, -1]),
        (["cat/0.jpg", "cat/1.jpg"], (), [-1, -1]),
        (["a/x/0.jpg", "b/x/1.jpg", "a/y/2.jpg"], ("a", "b"), [0, 1, 0]),
    ],
)
def test_folders_in_a_shard_are_classes(paths: list[str], classes: tuple[str, ...], numbers: list[int], tmp_path: Path):
    source = TarShards([shard(tmp_path / "x.tar", dict.fromkeys(paths, "x"))])
    assert (source.classes, labels(source).tolist()) == (classes, numbers)


def test_folders_in_several_shards(tmp_path: Path) -> None:
    first = shard(tmp_path / "0.tar", {"cat/0.jpg": "x", "cat/1.jpg": "x"})
    source = TarShards([first, shard(tmp_path / "1.tar", {"dog/0.jpg": "x"})])
    assert (source.classes, labels(source).tolist()) == (("cat", "dog"), [0, 0, 1])
    assert label_notes(source).origin == "folders in the shards"
