"""A classifier as ONNX, and the recipe of docs/export.md in a process without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.classifier.exported_head import exportable_classifier
from coterie.data.loading.center_crop import center_crop
from coterie.errors import UserError
from coterie.exporting.export import Exported, export_model
from coterie.exporting.formats.exportable import Exportable
from tests.exporting.networks import CLASSES, photographs, small_classifier, small_model

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
NO_TORCH = """
import sys
from importlib.abc import MetaPathFinder

class NoTorch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "coterie"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason=f"{library} is of the extra export")
    model = small_model("resnet18", 48, crop=0.9, width=0.125, stem="small")
    classifier = small_classifier(model, threshold=0.5)
    out = tmp_path_factory.mktemp("onnx") / "out"
    return classifier, export_model(exportable_classifier(classifier), "onnx", out, bytes_in=True)


def test_onnx_runtime_computes_the_same(exported) -> None:
    import onnxruntime

    classifier, done = exported
    assert isinstance(done, Exported)
    assert done.difference < 1e-5  # 1e-4 is allowed
    assert done.files == ("README.md", "config.json", "model.onnx", "preprocessor_config.json")
    session = onnxruntime.InferenceSession(done.folder / "model.onnx")
    (images,) = session.get_inputs()
    assert (images.shape, images.type) == (["batch", "height", "width", 3], "tensor(uint8)")
    batch = np.random.default_rng(0).integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)
    normalized = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - 0.4) / 0.2
    (found,) = session.run(None, {"images": batch})
    expected = classifier.probabilities(classifier.model.network(normalized))
    assert torch.from_numpy(found).allclose(expected, atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map["coterie"])
    assert (about["classes"], about["threshold"], about["preprocessing"]["size"]) == (list(CLASSES), 0.5, 48)


def test_the_recipe_without_torch(exported, tmp_path: Path) -> None:
    """In a process that cannot import torch; it prints what our own code computes from the same files."""
    classifier, done = exported
    (code,) = re.findall(r"```python\n(import json\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    paths = photographs(tmp_path / "IMAGES")
    (tmp_path / "FOLDER").symlink_to(done.folder)
    command = [sys.executable, "-c", NO_TORCH + code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    crops = [center_crop(np.asarray(Image.open(path)), 48, 0.9, "bicubic") for path in paths]
    normalized = (torch.from_numpy(np.stack(crops)).float() / 255 - 0.4) / 0.2
    best, label = classifier.probabilities(classifier.model.network(normalized)).max(dim=1)
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [name for name, *_ in lines] == [path.name for path in paths]
    for (_, said, probability), expected, number in zip(lines, best.tolist(), label.tolist(), strict=True):
        assert abs(float(probability) - expected) < 0.01
        assert said == (CLASSES[number] if float(probability) >= 0.5 else "unknown")


def test_the_card_says_how_to_use_it(exported) -> None:
    _, done = exported
    card = (done.folder / "README.md").read_text()
    assert card.startswith('---\nlicense: "unknown"\nlibrary_name: "onnx"\npipeline_tag: "image-classification"\n')
    assert "pixels are bytes from 0 to 255" in card
    assert "say *unknown*" in card
    assert "* 2: yak" in card
    assert f"Checked in {done.library}" in card


def test_without_the_extra_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"--format onnx needs onnx.*: pip install 'coterie\[export\]'"):
        export_model(Exportable(small_model("resnet18", width=0.125)), "onnx", tmp_path / "out")
    assert not any(tmp_path.iterdir())
