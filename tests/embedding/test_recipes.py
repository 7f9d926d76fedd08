"""The code of docs/recipes.md and of the patch features in docs/embed.md runs as it stands, where the libraries are."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import coterie
from coterie.classifier.classifier_file import Classifier, save_classifier
from coterie.exporting.model import open_model
from tests.conftest import ROOT
from tests.embedding.running import Made


def run(page: str, heading: str) -> dict[str, object]:
    section = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    names: dict[str, object] = {}
    for piece in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(piece, page, "exec"), names)
    assert names
    return names


@pytest.fixture
def here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A folder with embeddings of a few images; returns their cosines."""
    monkeypatch.chdir(tmp_path)
    table = pq.read_table(made.table).slice(0, 200)
    pq.write_table(table, "embeddings.parquet")
    rows = np.stack(table["embedding"].to_numpy())
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_spec(library) is None, reason=f"{library} is not installed: scripts/install test-recipes"
    )


@needs("duckdb")
def test_duckdb(here: np.ndarray) -> None:
    found = run("recipes.md", "DuckDB")
    table = pq.read_table("embeddings.parquet")
    nearest = np.argsort(-here[0])[1:6]
    assert [name for name, _ in found["nearest"]] == table["name"].take(nearest).to_pylist()
    np.testing.assert_allclose([cosine for _, cosine in found["nearest"]], here[0][nearest], rtol=1e-4)
    assert sum(images for *_, images in found["groups"]) == 200


@needs("faiss")
def test_faiss(here: np.ndarray) -> None:
    found = run("recipes.md", "FAISS")
    np.testing.assert_allclose(found["cosines"], -np.sort(-here[:10], axis=1)[:, :6], rtol=1e-4)
    assert found["neighbors"][0] == pq.read_table("embeddings.parquet")["name"][0].as_py()


@needs("lancedb")
@pytest.mark.filterwarnings("ignore")  # of its own
def test_lancedb(here: np.ndarray) -> None:
    found = run("recipes.md", "LanceDB")
    names = pq.read_table("embeddings.parquet")["name"].take(np.argsort(-here[0])[:5]).to_pylist()
    assert found["neighbors"] == names


@needs("pandas")
def test_pandas(here: np.ndarray, made: Made) -> None:
    torch.manual_seed(0)
    made_classifier = Classifier(open_model(made.run), torch.nn.Linear(64, 2), ("a", "b"), threshold=0.6)
    kept = save_classifier("classifier", made_classifier).parent
    coterie.predict(kept, made.images, "predictions.parquet", workers=0, quiet=True)
    found = run("recipes.md", "pandas")
    unsure = found["unsure"]["probability"].to_numpy()
    assert len(unsure) == 20
    assert (np.diff(unsure) >= 0).all()
    assert int(found["by_group"].to_numpy().sum()) == 200


def test_patch_features(here: np.ndarray, made: Made) -> None:
    Path("runs").mkdir()
    Path("runs/first").symlink_to(made.run)
    Path("photos").mkdir()
    for number, row in enumerate(pq.read_table(made.images)["image"].to_pylist()[:4]):
        Path(f"photos/{number}.png").write_bytes(row["bytes"])
    found = run("embed.md", "Patch features")
    assert found["patches"].shape == (4, 4, 64)
    assert np.load("maps.npy").shape == (4, 64, 2, 2)
    assert len(found["names"]) == 4
    assert [tuple(found[each].shape) for each in ("earlier", "last")] == [(2, 32, 16, 16), (2, 64, 8, 8)]
