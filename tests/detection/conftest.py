"""A tiny network with random weights as a MODEL, gray images with one bright square or bar each, and a detector of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.exporting.backbone_file import save_backbone
from coterie.models.backbone import BackboneConfig, build_backbone

TINY = BackboneConfig("resnet18", width=0.25)
CATEGORIES = ("bar", "square")
HERE = {"device": "cpu", "workers": 0, "quiet": True}


def draw(folder: Path, count: int, seed: int = 0, side: int = 64) -> Path:
    """Images of one bright object each, and ``boxes.json`` beside the folder; returns the folder."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        kind = number % 2
        width, height = (24, 24) if kind else (40, 12)
        left, top = (int(generator.integers(0, side - each)) for each in (width, height))
        pixels = generator.integers(0, 60, (side, side, 3))
        pixels[top : top + height, left : left + width] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
        images.append({"id": 10 + number, "file_name": f"{number:02d}.png", "width": side, "height": side})
        box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": 10 + number, "category_id": 3 + kind, **box})
    categories = [{"id": 3 + number, "name": name} for number, name in enumerate(CATEGORIES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Eight images; their boxes are in ``drawn.json`` beside the folder."""
    return draw(tmp_path_factory.mktemp("boxes") / "drawn", 8)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A narrow ResNet with random weights as a file."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_backbone(path, build_backbone(TINY, 64).eval(), TINY, 64, (0.3,) * 3, (0.2,) * 3)
    return path


@pytest.fixture(scope="session")
def trained(weights: Path, drawn: Path, tmp_path_factory) -> Path:
    """The folder of a Faster R-CNN that was trained for a moment."""
    out = tmp_path_factory.mktemp("detectors") / "shapes"
    torch.set_num_threads(1)
    coterie.train(weights, drawn, out=out, boxes=drawn.with_suffix(".json"), epochs=6, learning_rate=0.02, **HERE)
    return out
