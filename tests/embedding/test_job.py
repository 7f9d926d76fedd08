"""Embedding by any MODEL: what the table holds, and what a folder of parts remembers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch

import coterie
from coterie.errors import BadRun, UserError
from coterie.logger import NullLogger
from tests.embedding.running import BROKEN, IMAGES, PART, Made


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def rows(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of another project."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save({"state_dict": timm.create_model("resnet10t").state_dict()}, path)
    return path


def test_our_own_file_gives_the_same_embeddings_without_groups(made: Made, tmp_path: Path) -> None:
    shutil.copy(made.run / "model.safetensors", tmp_path / "copied.safetensors")
    logger = Recorder()
    out = tmp_path / "out.parquet"
    count = coterie.embed(tmp_path / "copied.safetensors", made.images, out, workers=0, logger=logger)
    assert count == IMAGES - len(BROKEN)
    found, of_the_run = pq.read_table(out), pq.read_table(made.table)
    np.testing.assert_allclose(rows(found), rows(of_the_run), rtol=1e-4, atol=1e-5)
    assert set(found["group"].to_pylist()) == {-1}
    assert set(found["probability"].to_pylist()) == {0.0}
    assert min(of_the_run["group"].to_pylist()) >= 0
    assert [line for line in logger.lines if "has no groups: each image gets group -1 and probability 0" in line]


def test_a_run_of_which_only_the_weights_are_left(made: Made, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("config.toml", "model.safetensors"):
        shutil.copy(made.run / name, tmp_path / "run")
    coterie.embed(tmp_path / "run", made.images, tmp_path / "out.parquet", workers=0, quiet=True)
    found = pq.read_table(tmp_path / "out.parquet")
    np.testing.assert_allclose(rows(found), rows(pq.read_table(made.table)), rtol=1e-4, atol=1e-5)


def test_public_weights_at_a_size_in_parts(made: Made, weights: Path, tmp_path: Path) -> None:
    asked = {"backbone": "resnet10t", "size": 32, "workers": 0, "quiet": True}
    coterie.embed(weights, made.images, tmp_path / "one.parquet", **asked)
    coterie.embed(weights, made.images, tmp_path / "parts", part_images=PART, **asked)
    table = pq.read_table(tmp_path / "one.parquet")
    assert table.equals(pq.read_table(tmp_path / "parts"))
    assert rows(table).shape == (IMAGES - len(BROKEN), 512)
    assert np.isfinite(rows(table)).all()
    manifest = json.loads((tmp_path / "parts" / "_embedding.json").read_text())
    assert manifest["preprocessing"]["size"] == 32
    assert manifest["preprocessing"]["interpolation"] == "bicubic"
    with pytest.raises(BadRun, match="prepared in another way"):
        coterie.embed(weights, made.images, tmp_path / "parts", part_images=PART, **(asked | {"size": 40}))
    with pytest.raises(BadRun, match="by other weights"):
        coterie.embed(made.run, made.images, tmp_path / "parts", part_images=PART, workers=0, quiet=True)


def test_a_run_is_embedded_at_another_size(made: Made, tmp_path: Path) -> None:
    coterie.embed(made.run, made.images, tmp_path / "out.parquet", size=24, workers=0, quiet=True)
    found, usual = pq.read_table(tmp_path / "out.parquet"), pq.read_table(made.table)
    assert not found["embedding"].equals(usual["embedding"])
    assert min(found["group"].to_pylist()) >= 0


@pytest.mark.parametrize(
    ("options", "what"),
    [({"backbone": "resnet50"}, "--backbone is resnet50, but .* is a resnet18"), ({"size": 0}, "--size is 0")],
)
def test_options_that_contradict_a_run(made: Made, tmp_path: Path, options: dict, what: str) -> None:
    with pytest.raises(UserError, match=what):
        coterie.embed(made.run, made.images, tmp_path / "out.parquet", workers=0, quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_rows_in_bfloat16_are_near_those_in_float32_and_a_folder_has_one_precision(made: Made, tmp_path: Path) -> None:
    logger, tables = Recorder(), {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        asked = {"part_images": PART, "precision": precision, "workers": 0}
        coterie.embed(made.run, made.images, out, logger=logger, **asked)
        assert any(each.startswith("images: ") and each.endswith(f"; {precision}") for each in logger.lines)
        tables[precision] = pq.read_table(out)
        assert pq.read_schema(next(out.glob("*.parquet"))).metadata[b"precision"] == precision.encode()
    exact, near = (torch.from_numpy(rows(table)) for table in tables.values())
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert float(torch.nn.functional.cosine_similarity(exact, near).min()) > 0.998  # 128 images of 16 pixels, one epoch
    same = np.mean(tables["float32"]["group"].to_numpy() == tables["bfloat16"]["group"].to_numpy())
    assert same > 0.95
    manifests = [json.loads((tmp_path / each / "_embedding.json").read_text()) for each in tables]
    assert "precision" not in manifests[0]  # as in folders of earlier versions, which can be resumed
    assert manifests[1] == manifests[0] | {"precision": "bfloat16"}
    with pytest.raises(BadRun, match=r"contains embeddings in another precision \(--precision\)"):
        coterie.embed(made.run, made.images, tmp_path / "bfloat16", part_images=PART, precision="float32", quiet=True)


def test_an_efficientnet_is_embedded_in_float32_and_says_so(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coterie.config.hardware.has_bfloat16", lambda device: True)
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.pth")
    for precision, kept in (("auto", b"float32"), ("bfloat16", b"bfloat16")):
        logger, out = Recorder(), tmp_path / f"{precision}.parquet"
        asked = {"backbone": "test_efficientnet", "size": 32, "device": "cpu", "workers": 0, "precision": precision}
        coterie.embed(tmp_path / "weights.pth", made.images, out, logger=logger, **asked)
        assert pq.read_schema(out).metadata[b"precision"] == kept
        assert any(line.endswith(f"; {kept.decode()}") for line in logger.lines)
