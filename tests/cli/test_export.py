"""The command export, of a run and of a classifier."""

from pathlib import Path

import pytest

import coterie
from coterie.classifier.classifier_file import save_classifier
from tests.cli.test_main import TINY, images  # noqa: F401 -- a fixture
from tests.exporting.networks import small_classifier, small_model


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "run"
    return coterie.pretrain("swav", images, out=out, epochs=1, batch_size=16, settings=TINY[1::2])


def test_a_run_is_exported_with_its_card(run: Path, call, tmp_path: Path) -> None:
    words = ("export", run, "--format", "safetensors", "--license", "cc-by-4.0", "--out", tmp_path / "out")
    status, said, _ = call(*words)
    assert status == 0
    assert said.startswith(
        f"{tmp_path / 'out'}: README.md, config.json, model.safetensors, preprocessor_config.json; coterie "
    )
    assert "computes the same features, exactly" in said
    assert coterie.describe_backbone(tmp_path / "out").backbone == coterie.describe_backbone(run).backbone
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "cc-by-4.0"' in card
    assert "method: swav" in card
    assert "Not evaluated on labels" in card
    assert call(*words)[0] == 2  # there is something already
    status, _, err = call("export", run, "--format", "torchvision", "--out", tmp_path / "other")
    assert status == 2
    assert "coterie: torchvision cannot hold this resnet18: its ResNets have no " in err
    assert not (tmp_path / "other").exists()


def test_a_classifier_is_exported_with_its_card(call, tmp_path: Path) -> None:
    about = {"model": "runs/cells", "kind": "linear", "images": "12", "accuracy": "91.0 % of 12 images held out"}
    save_classifier(tmp_path / "kept", small_classifier(small_model("test_vit", 48), threshold=0.5, about=about))
    status, said, _ = call("export", tmp_path / "kept", "--format", "timm", "--out", tmp_path / "out")
    assert status == 0
    assert "computes the same logits, exactly" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A classifier of Coterie on the features of cells: linear, 12 labeled images." in card
    assert "| accuracy | 91.0 % of 12 images held out |" in card
    status, _, err = call("export", tmp_path / "kept", "--format", "timm", "--size", "64", "--out", tmp_path / "more")
    assert (status, "--size is for a MODEL" in err) == (2, True)
