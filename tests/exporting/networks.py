"""Small models to export, whose weights are random everywhere, batch norms included."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from coterie.classifier.classifier_file import Classifier
from coterie.classifier.heads import Head
from coterie.data.loading.center_crop import Preprocessing
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width
from tests.models.official_swav import trained_looking

CLASSES = ("cat", "dog", "yak")


def small_model(name: str, size: int = 32, *, crop: float | None = None, **settings) -> Model:
    config = BackboneConfig(name, **settings)
    torch.manual_seed(0)
    network = build_backbone(config, size)
    trained_looking(network)
    with torch.no_grad():
        for each in network.parameters():  # layer scales begin near zero, where they would hide what they scale
            each += 0.1 * torch.rand_like(each) * (each.ndim == 1)
    mean, std = ((value,) * config.channels for value in (0.4, 0.2))
    return Model(name, network.eval(), config, size, Preprocessing(size, config.channels, mean, std, crop, "bicubic"))


def small_classifier(model: Model, head: Head | None = None, **settings) -> Classifier:
    if head is None:
        head = nn.Linear(feature_width(model.network), len(CLASSES)).requires_grad_(False)
    return Classifier(model, head.eval(), CLASSES, temperature=0.5, **settings)


def photographs(folder: Path, count: int = 3) -> list[Path]:
    """Smooth images that are no squares, without a loss."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, each in zip(paths, noise, strict=True):
        Image.fromarray(each).resize((400, 300), Image.Resampling.BICUBIC).save(path)
    return paths
