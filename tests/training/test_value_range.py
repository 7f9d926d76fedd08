"""Images of floating-point values with ``views.range``: every command sees what it would see of them scaled to 16 bits."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import tifffile

import coterie
from coterie.config.from_options import Resolved
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_run_toml, to_dict
from coterie.errors import UserError
from coterie.exporting.backbone_file import describe_backbone
from coterie.exporting.model import open_model
from coterie.methods.resolve import resolve_run

LOW, HIGH = -1000.0, 1000.0
SETTINGS = {"backbone.width": 0.125, "groups.counts": 4, "run.snapshots": 0, "run.workers": 0, "run.device": "cpu"}
HERE = {"device": "cpu", "workers": 0, "quiet": True}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """The same images as ``float32`` and as ``uint16``, in two classes: bright and dark spots."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(24):
        name = ("bright", "dark")[number % 2]
        values = generator.normal(0, 200, (20, 20)).astype(np.float32)
        values[5:15, 5:15] += 600 if name == "bright" else -600
        deep = np.rint(((values.astype(np.float64) - LOW) / (HIGH - LOW)).clip(0, 1) * 65535).astype(np.uint16)
        for kind, stored in (("float", values), ("deep", deep)):
            (root / kind / name).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / kind / name / f"{number:02d}.tif", stored)
    return root


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for kind, more in (("float", {"views.range": [LOW, HIGH]}), ("deep", {})):
        out = folder / kind
        coterie.pretrain("swav", images / kind, out=out, epochs=1, batch_size=12, settings=SETTINGS | more, quiet=True)
    return folder


def test_a_run_is_that_of_the_scaled_images_and_remembers_the_range(runs):
    ours, theirs = (safetensors.torch.load_file(runs / kind / "model.safetensors") for kind in ("float", "deep"))
    assert all(theirs[name].equal(value) for name, value in ours.items())
    assert read_run_toml(runs / "float")["views"]["range"] == [LOW, HIGH]
    assert describe_backbone(runs / "float" / "model.safetensors").value_range == (LOW, HIGH)
    assert describe_backbone(runs / "deep" / "model.safetensors").value_range is None
    assert "range -1000 to 1000" in open_model(runs / "float").lines[1]


def test_features_labels_and_figures_are_the_same_for_both(images, runs, tmp_path):
    run, found = runs / "float", {}
    coterie.train(run, images / "float", out=tmp_path / "classifier", **HERE)
    for kind in ("float", "deep"):
        table, labels = tmp_path / f"{kind}.parquet", tmp_path / f"{kind}_labels.parquet"
        assert coterie.embed(run, images / kind, table, **HERE) == 24
        assert coterie.predict(tmp_path / "classifier", images / kind, labels, **HERE) == 24
        figures = coterie.evaluate(run, images / kind, images / kind, probes=["knn"], **HERE)
        found[kind] = (
            pq.read_table(table)["embedding"],
            pq.read_table(labels)["probability"],
            figures,
            figures.baselines,
        )
    assert found["float"] == found["deep"]


def test_a_model_without_a_range_refuses_them_in_one_line(images, runs, tmp_path):
    with pytest.raises(UserError, match=r"float32 values.* set views\.range to two numbers, or to auto"):
        coterie.embed(runs / "deep", images / "float", tmp_path / "rows.parquet", **HERE)
    with pytest.raises(UserError, match=r"views\.range is \[5, 5\]: give the lowest and the highest value"):
        coterie.pretrain("swav", images / "float", out=tmp_path / "run", settings={"views.range": [5, 5]}, quiet=True)


def test_a_measured_range_is_as_if_stated(images):
    def wanted(value: object) -> tuple[Resolved, PretrainConfig]:
        found = resolve_run(
            "swav", images / "float", {"epochs": 1, "batch_size": 12, "settings": {"views.range": value}}
        )
        return found, found.config

    found, config = wanted("auto")
    values = np.concatenate([tifffile.imread(path).ravel() for path in sorted((images / "float").glob("*/*.tif"))])
    np.testing.assert_allclose(config.views.range, np.percentile(values, (0.5, 99.5)), atol=0.1)
    assert found.reasons["views.range"] == "percentiles 0.5 and 99.5 of the values of 24 images"
    assert from_dict(to_dict(config)) == config == wanted(list(config.views.range))[1]
    with pytest.raises(
        UserError, match=r"--set views.range=measured: give two numbers, such as \[-1000,1000\], or auto"
    ):
        wanted("measured")


def test_a_resumed_run_keeps_its_range(images, runs):
    options = {"epochs": 1, "batch_size": 12, "settings": SETTINGS | {"views.range": "auto"}, "quiet": True}
    coterie.pretrain("swav", images / "float", out=runs / "float", **options)  # other numbers would be another run
    assert read_run_toml(runs / "float")["views"]["range"] == [LOW, HIGH]
