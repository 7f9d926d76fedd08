"""Where images and labels are, as a setting of a run."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie import api
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict, to_toml
from coterie.data.sources.columns import Columns
from coterie.data.sources.source import labels
from coterie.errors import BadConfig, BadRun
from coterie.methods.resolve import resolve_run
from tests.data.pictures import encoded, photo
from tests.data.sources.helpers import write


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pictures = [encoded(photo(number)) for number in range(8)]
    table = pa.table({"a": pictures, "b": pictures[::-1], "kind": ["x", "y"] * 4})
    pq.write_table(table, tmp_path / "images.parquet")
    return tmp_path / "images.parquet"


def resolved(images: Path, **options: object) -> tuple[PretrainConfig, list[int]]:
    options = {"epochs": 1, "batch_size": 4, **options}
    wanted = resolve_run("swav", images, options)
    return wanted.config, labels(wanted.source).tolist()


def test_options_settings_and_files_name_columns(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, numbers = resolved(images, image_column="a", label_column="kind")
    assert (config.columns, numbers) == (Columns("a", "kind"), [0, 1] * 4)
    (tmp_path / "run.toml").write_text(to_toml(config))
    again = resolve_run(None, (), {"config": tmp_path / "run.toml"})
    assert (again.config, labels(again.source).tolist()) == (config, numbers)
    assert resolved(images, settings=["columns.image=b", "columns.label=kind"])[0].columns == Columns("b", "kind")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("name,label\n" + "".join(f"images/{number:08},z\n" for number in range(8)))
    config, numbers = resolved(images, image_column="a", labels=Path("labels.csv"))
    assert (config.columns.labels, numbers) == (str(tmp_path / "labels.csv"), [0] * 8)


def test_settings_of_an_earlier_version_name_none(images: Path, tmp_path: Path) -> None:
    settings = to_dict(resolved(images, image_column="a")[0])
    del settings["columns"]
    assert from_dict(settings).columns == Columns()


def test_a_wrong_table_of_columns_is_refused(images: Path, tmp_path: Path) -> None:
    text = to_toml(resolved(images, image_column="a")[0])
    (tmp_path / "run.toml").write_text(text.replace('image = "a"', 'picture = "a"'))
    with pytest.raises(BadConfig, match="columns"):
        resolve_run(None, (), {"config": tmp_path / "run.toml"})
    with pytest.raises(BadConfig, match="no column 'c'"):
        resolved(images, image_column="c")


def test_a_run_goes_on_with_its_columns(images: Path, tmp_path: Path) -> None:
    options = {"epochs": 1, "batch_size": 4, "settings": ["backbone.width=0.125", "run.workers=0", "run.threads=1"]}
    out = api.pretrain("swav", images, out=tmp_path / "run", image_column="a", quiet=True, **options)
    assert read_toml(out / "config.toml")["columns"] == {"image": "a"}
    api.pretrain("swav", images, out=out, quiet=True, **options)  # the column is that of the run
    api.pretrain("swav", images, out=out, label_column="kind", quiet=True, **options)  # labels may change
    with pytest.raises(BadRun, match=r"columns.image: a -> b.*leave out --image-column to resume it"):
        api.pretrain("swav", images, out=out, image_column="b", quiet=True, **options)
    with pytest.raises(BadRun, match=r"columns.pages: first -> all.*leave out --pages to resume it"):
        api.pretrain("swav", images, out=out, image_column="a", pages="all", quiet=True, **options)


def test_evaluate_with_a_table_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(12):
        write(folder, f"{number}.png", data=encoded(photo(number)))
    rows = "".join(f"{number},{'ab'[number % 2]}\n" for number in range(12))
    (tmp_path / "labels.csv").write_text("id,label\n" + rows)
    options = {"epochs": 1, "batch_size": 4, "settings": ["backbone.width=0.125", "run.workers=0", "run.threads=1"]}
    out = api.pretrain("swav", folder, out=tmp_path / "run", quiet=True, **options)
    found = api.evaluate(out, folder, labels=tmp_path / "labels.csv", workers=0, quiet=True)
    assert all(0 <= figure <= 100 for figure in found["knn"].values())
    api.embed(out, folder, tmp_path / "x.parquet", labels=tmp_path / "labels.csv", workers=0, quiet=True)
    table = pq.read_table(tmp_path / "x.parquet")
    assert dict(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))["3.png"] in ("b", 1)
