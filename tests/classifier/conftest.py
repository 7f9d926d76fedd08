"""A tiny network with random weights, as a MODEL."""

import pytest
import torch

from coterie.data.loading.center_crop import Preprocessing
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig, build_backbone

TINY = BackboneConfig("resnet18", width=0.25, stem="small")
LOOK = Preprocessing(24, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0.9, "bicubic")


@pytest.fixture
def tiny_model() -> Model:
    """A narrow ResNet with random weights, whose images have 24 pixels."""
    torch.manual_seed(1)
    return Model("tiny", build_backbone(TINY, 32).eval(), TINY, 32, LOOK)
