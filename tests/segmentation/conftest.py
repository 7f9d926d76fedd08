"""Gray images of a bright square or bar each, their masks, a tiny network with random weights, and a segmenter of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.exporting.backbone_file import save_backbone
from coterie.models.backbone import BackboneConfig, build_backbone

TINY = BackboneConfig("resnet18", width=0.25)
HERE = {"device": "cpu", "workers": 0, "quiet": True}


def draw(folder: Path, count: int, seed: int = 0, values: tuple[int, int, int] = (0, 1, 2), side: int = 48) -> Path:
    """``images`` of one bright object each, and ``masks``: background, bar and square; returns the folder."""
    generator = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        kind = number % 2
        width, height = (20, 20) if kind else (32, 10)
        left, top = (int(generator.integers(0, side - each)) for each in (width, height))
        pixels, mask = generator.integers(0, 60, (side, side, 3)), np.full((side, side), values[0], dtype=np.uint8)
        pixels[top : top + height, left : left + width] += 180 if kind else 90
        mask[top : top + height, left : left + width] = values[1 + kind]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Eight images with masks."""
    folder = draw(tmp_path_factory.mktemp("masks") / "drawn", 8)
    (folder / "masks" / "classes.txt").write_text("ground\nbar\nsquare\n")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A narrow ResNet with random weights as a file."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_backbone(path, build_backbone(TINY, 64).eval(), TINY, 64, (0.3,) * 3, (0.2,) * 3)
    return path


@pytest.fixture(scope="session")
def trained(weights: Path, drawn: Path, tmp_path_factory) -> Path:
    """The folder of a linear segmenter that was trained for a moment."""
    out = tmp_path_factory.mktemp("segmenters") / "shapes"
    torch.set_num_threads(1)
    coterie.train(weights, drawn / "images", out=out, **options(drawn))
    return out


def options(drawn: Path, **more):
    """Of the training of ``trained``."""
    return {"masks": drawn / "masks", "epochs": 12, "blocks": 1, "learning_rate": 0.03, **HERE} | more
