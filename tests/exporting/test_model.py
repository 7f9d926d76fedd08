from pathlib import Path

import pytest
import torch

from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import open_model
from coterie.models.backbone import BackboneConfig, build_backbone

SMALL = BackboneConfig("resnet18", width=0.125, stem="small")


def test_a_file_is_opened_with_its_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_backbone(SMALL, 16).eval()
    save_backbone(tmp_path / "model.safetensors", network, SMALL, 16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    model = open_model(tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 16, 16)
    assert model.network(images).equal(network(images))
    assert model.run is None
    assert (model.preprocessing.size, model.preprocessing.mean) == (16, (0.1, 0.2, 0.3))
    assert not model.untrained().eval()(images).equal(network(images))


def test_a_missing_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*missing\.safetensors"):
        open_model(tmp_path / "missing.safetensors")
