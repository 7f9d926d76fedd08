"""``coterie predict``: beside what the classifier itself computes, as files and parts, and sorted into folders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import coterie
from coterie.answers import predict
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.classifier.predict import PredictionRows
from coterie.classifier.sort_into import check_sorting, sort_into
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.open import open_source
from coterie.embedding.embed import embed_source
from coterie.errors import BadRun, UserError
from coterie.exporting.model import Model
from coterie.logger import NullLogger

COUNT, BAD, CLASSES = 300, 7, ("a/b", "cat", "dog")
HOW = {"workers": 0, "precision": "float32", "quiet": True}
COLUMNS = ["name", "label", "probability", "runner_up", "runner_up_probability", "unknown"]


@pytest.fixture
def classifier(tiny_model: Model) -> Classifier:
    """Random weights; so scaled that labels differ, and that some images are unknown."""
    head = nn.Linear(128, 3)
    nn.init.normal_(head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return Classifier(tiny_model, head.eval(), CLASSES, temperature=1.5, threshold=0.6)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, one of which is none."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / ("below" if number % 2 else "") / f"{number:03d}.png"
        color, noise = generator.integers(0, 256, 3), generator.integers(0, 80, (24, 24, 3))
        Image.fromarray((color // 2 + noise).astype(np.uint8)).save(path)
    (folder / "below" / f"{BAD:03d}.png").write_bytes(b"no image")
    return folder


def test_a_table_holds_what_the_classifier_computes(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    found = embed_source(classifier.model.network, source, classifier.model.preprocessing)
    best, places = classifier.probabilities(found.rows).topk(2, dim=1)
    kept = save_classifier(tmp_path / "kept", replace(classifier, threshold=float(best[:, 0].median()))).parent
    assert predict(kept, images, tmp_path / "out.parquet", **HOW) == COUNT - 1
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == COLUMNS
    assert table["name"].to_pylist() == [source.name(int(each)) for each in found.index]
    for column, name in enumerate(("label", "runner_up")):
        assert table[name].to_pylist() == [CLASSES[each] for each in places[:, column].tolist()]
    for column, name in enumerate(("probability", "runner_up_probability")):
        np.testing.assert_allclose(table[name].to_numpy(), best[:, column].numpy(), rtol=1e-5)
    unknown = table["unknown"].to_numpy()
    assert 0.4 < unknown.mean() < 0.6
    assert table["probability"].to_numpy()[unknown].max() <= table["probability"].to_numpy()[~unknown].min()
    predict(kept / "classifier.safetensors", images, tmp_path / "out.csv", **HOW)
    read = pyarrow.csv.read_csv(tmp_path / "out.csv")
    assert read.select(["name", "label", "runner_up", "unknown"]).equals(
        table.select(["name", "label", "runner_up", "unknown"]).replace_schema_metadata(None)
    )
    np.testing.assert_allclose(read["probability"].to_numpy(), table["probability"].to_numpy(), rtol=1e-6)
    assert (tmp_path / "out.csv.bad.txt").read_text().startswith(f"below/{BAD:03d}.png\t")
    predict(kept, images / "000.png", tmp_path / "out.csv", **HOW)
    assert not (tmp_path / "out.csv.bad.txt").exists(), "of the table before"


def test_parts_are_the_table_and_belong_to_one_classifier(
    classifier: Classifier, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, out = save_classifier(tmp_path / "kept", classifier).parent, tmp_path / "parts"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):  # as torchrun starts them
        monkeypatch.setenv("RANK", rank)
        predict(kept, images, out, part_images=256, **HOW)
    with pytest.raises(UserError, match="let the processes finish"):
        predict(kept, images, out, sort_into=tmp_path / "sorted", **HOW)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    (out / "part-00000001.parquet").unlink()
    assert predict(kept, images, out, part_images=256, **HOW) == COUNT - 1
    predict(kept, images, tmp_path / "one.parquet", **HOW)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "one.parquet"))
    with pytest.raises(BadRun, match="contains something other than predictions"):
        predict(kept, images, kept, **HOW)
    save_classifier(kept, replace(classifier, threshold=0.9))
    with pytest.raises(BadRun, match="predictions by another classifier"):
        predict(kept, images, out, part_images=256, **HOW)
    save_classifier(kept, classifier)
    (images / "more.png").write_bytes((images / "000.png").read_bytes())
    with pytest.raises(BadRun, match="predictions of other images"):
        predict(kept, images, out, part_images=256, **HOW)


def test_images_are_linked_into_a_folder_for_each_label(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    kept, out, folder = save_classifier(tmp_path / "kept", classifier).parent, tmp_path / "out.csv", tmp_path / "sorted"
    predict(kept, images, out, sort_into=folder, **HOW)
    table = pyarrow.csv.read_csv(out).to_pylist()
    wanted = {
        f"{'unknown' if row['unknown'] else row['label'].replace('/', '_')}/{row['name']}": row["name"] for row in table
    }
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*.png")}
    assert there.keys() == wanted.keys()
    assert all(there[name].readlink() == images / wanted[name] for name in wanted)
    (again := next(iter(there.values()))).unlink()
    predict(kept, images, out, sort_into=folder, **HOW)  # resumes
    assert again.is_symlink()
    again.unlink()
    again.write_bytes(b"of the user")
    with pytest.raises(UserError, match="is there already, and is not this image: choose another --sort-into"):
        sort_into(folder, out, open_source(str(images)), NullLogger())
    assert again.read_bytes() == b"of the user"


def predictions(path: Path, **labels: str) -> Path:
    table = {"name": list(labels), "label": list(labels.values()), "unknown": [False] * len(labels)}
    pq.write_table(pa.table(table), path)
    return path


def test_images_without_files_are_written_and_never_outside(tmp_path: Path) -> None:
    red, gray = np.full((4, 4, 3), (200, 0, 0), dtype=np.uint8), np.full((4, 4), 9, dtype=np.uint8)
    source = coterie.open_source(str(write_parquet(tmp_path / "t.parquet", {"../../up.png": red, "plain": gray})))
    table = predictions(tmp_path / "p.parquet", **{"../../up.png": "..", "plain": "x/y"})
    folder = tmp_path / "deep" / "er" / "sorted"
    for _ in range(2):
        assert sort_into(folder, table, source, NullLogger()) == 2
    files = sorted(str(path.relative_to(tmp_path / "deep")) for path in (tmp_path / "deep").rglob("*.png"))
    assert files == ["er/sorted/_../up.png", "er/sorted/x_y/plain.png"]
    assert np.array_equal(np.asarray(Image.open(folder / "x_y" / "plain.png")), gray)


def write_parquet(path: Path, images: dict[str, np.ndarray]) -> Path:
    rows = []
    for name, pixels in images.items():
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        rows.append({"bytes": path.with_suffix(".png").read_bytes(), "path": name})
    pq.write_table(pa.table({"image": rows}), path)
    return path


def test_copies_and_what_is_in_the_way(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    table = predictions(tmp_path / "p.parquet", **{"000.png": "cat", "002.png": "dog"})
    for _ in range(2):
        assert sort_into(tmp_path / "sorted", table, source, NullLogger(), copy=True) == 2
    copied = tmp_path / "sorted" / "cat" / "000.png"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (images / "000.png").read_bytes()
    other = predictions(tmp_path / "o.parquet", **{"elsewhere.png": "cat"})
    with pytest.raises(UserError, match=r"predictions of other images, such as elsewhere\.png"):
        sort_into(tmp_path / "new", other, source, NullLogger())
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_sorted_is_refused_before_anything_is_predicted(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images))
    (tmp_path / "file").write_text("")
    for folder in ("file", "images", "images/sorted", "images/../images/below/deep"):
        with pytest.raises(UserError, match=r"is a file: name a folder|where it would be read as more images"):
            check_sorting(tmp_path / folder, [str(images)], source)
    check_sorting(tmp_path / "images-sorted", [str(images)], source)
    twice = open_source(str(images), str(images))
    with pytest.raises(UserError, match=r"two images are called 000\.png: give each of their folders"):
        check_sorting(tmp_path / "new", [str(images)], twice)
    table = predictions(tmp_path / "p.parquet", **{"000.png": "a/b", "002.png": "a_b"})
    with pytest.raises(UserError, match="the labels 'a/b' and 'a_b' would share a folder"):
        sort_into(tmp_path / "new", table, source, NullLogger())
    assert not (tmp_path / "new").exists()


def test_several_labels_are_lists() -> None:
    rows = PredictionRows(CLASSES, 0.3, several=True)
    probabilities = torch.tensor([[0.6, 0.1, 0.9], [0.2, 0.4, 0.1], [0.1, 0.2, 0.25]])
    columns = rows.columns(Arrays([np.zeros((4, 4), np.uint8)] * 3), np.arange(3), (probabilities,) * 2)
    table = pa.table(dict(columns), schema=pa.schema(dict(rows.fields())))
    assert table["label"].to_pylist() == [["dog", "a/b"], [], []]
    assert [[round(each, 4) for each in row] for row in table["probability"].to_pylist()] == [[0.9, 0.6], [], []]
    assert table["unknown"].to_pylist() == [False, False, True]


def test_bad_input_is_one_line(classifier: Classifier, images: Path, tmp_path: Path) -> None:
    several = save_classifier(tmp_path / "several", replace(classifier, multi_label=True)).parent
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    for given, out, said in (
        (several, "out.csv", "have lists in them, which CSV does not hold: use .parquet"),
        (several, "out.npy", "no array of numbers: use .csv or .parquet"),
        (several, "out.tsv", r"tables are written as .parquet, .csv, .npy, or as a folder"),
        (several, "out.CSV", r"tables are written as .parquet, .csv, .npy, or as a folder"),
        (run, "out.csv", "is a run: it has no classifier.safetensors"),
        (tmp_path / "none", "out.csv", "does not exist: name a CLASSIFIER"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            predict(given, images, tmp_path / out, **HOW)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / out).exists()
    with pytest.raises(UserError, match="--copy is for --sort-into"):
        predict(several, images, tmp_path / "out.parquet", copy=True, **HOW)
