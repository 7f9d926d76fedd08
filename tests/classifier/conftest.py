"""A tiny network with random weights as a MODEL, images of three colors, and a classifier of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.data.loading.center_crop import Preprocessing
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig, build_backbone

TINY = BackboneConfig("resnet18", width=0.25, stem="small")
LOOK = Preprocessing(24, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 0.9, "bicubic")
COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def paint(folder: Path, count: int, noise: int = 30, seed: int = 0) -> Path:
    """Class folders of noisy images of one color each."""
    generator = np.random.default_rng(seed)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (np.array(color) + generator.integers(-noise, noise + 1, (24, 24, 3))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture
def tiny_model() -> Model:
    """A narrow ResNet with random weights, whose images have 24 pixels."""
    torch.manual_seed(1)
    return Model("tiny", build_backbone(TINY, 32).eval(), TINY, 32, LOOK)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """The same network as a file of weights."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_backbone(path, build_backbone(TINY, 24).eval(), TINY, 24, LOOK.mean, LOOK.std)
    return path


@pytest.fixture(scope="session")
def painted(tmp_path_factory) -> Path:
    """Eight images of each color."""
    return paint(tmp_path_factory.mktemp("images") / "painted", 8)


@pytest.fixture(scope="session")
def trained(weights: Path, painted: Path, tmp_path_factory) -> Path:
    """The folder of a classifier of the colors."""
    out = tmp_path_factory.mktemp("classifiers") / "colors"
    coterie.train(weights, painted, out=out, quiet=True, device="cpu", workers=0)
    return out
