"""lightly's SwAV and SMoG with its own modules, transforms and CIFAR-10 recipes.

Written from what its documentation and benchmarks say of them: two views of 32 pixels without blur, constant settings, a cosine
per epoch without warm-up. What is not lightly's is kind to it: images are decoded beforehand, and the network and its
input lie channels-last in memory.
"""

import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import lightly_models
import numpy as np
import pyarrow.parquet as pq
import torch
from clock import Clock
from judge import IMAGENET, backbone, features, groups_used
from lightly.transforms import SMoGTransform, SwaVTransform
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class SwAV(lightly_models.SwAV):
    """512 prototypes, no queue, no freeze; Adam."""

    transform = SwaVTransform(
        crop_sizes=(32,), crop_counts=(2,), crop_min_scales=(0.14,), crop_max_scales=(1.0,),
        cj_strength=0.5, gaussian_blur=0.0,
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        network = backbone(seed)
        super().__init__(network, network.num_features)


class SMoG(lightly_models.SMoG):
    """300 groups, re-clustered every 300 steps from the last 10,000 embeddings; SGD, one rate for every batch size."""

    transform = SMoGTransform(
        crop_sizes=(32, 32), crop_counts=(1, 1), crop_min_scales=(0.2, 0.2), crop_max_scales=(1.0, 1.0),
        gaussian_blur_probs=(0.0, 0.0), solarize_probs=(0.0, 0.2),
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        network = backbone(seed)
        super().__init__(network, network.num_features)


class SMoGTransposed(SMoG):
    transposed = True


@dataclass(frozen=True)
class Recipe:
    """A contestant of lightly's: its model and the batch that it is trained with."""

    model: Callable[[int], SwAV | SMoG]
    batch_size: int


RECIPES = {
    "lightly-swav": Recipe(SwAV, 128),
    "lightly-swav-512": Recipe(SwAV, 512),
    "lightly-smog-transposed": Recipe(SMoGTransposed, 128),
    "lightly-smog-mended": Recipe(SMoG, 128),
    "lightly-smog-mended-512": Recipe(SMoG, 512),
}


class Decoded(Dataset):
    """Images that lie decoded in memory, each cut into views when it is asked for."""

    def __init__(self, path: Path, transform: Callable[[Image.Image], list[Tensor]]) -> None:
        encoded = pq.read_table(path, columns=["image"])["image"].to_pylist()
        self.images = [Image.open(BytesIO(each["bytes"])).convert("RGB") for each in encoded]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def train(name: str, data: Path, epochs: int, seed: int, workers: int, clock: Clock) -> tuple[SwAV | SMoG, dict]:
    """The trained model, and what its last epoch said. A model that fails is judged as it stood."""
    warnings.filterwarnings("ignore", message=".*ToTensor.*")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- scikit-learn and lightly's transforms draw from it
    recipe = RECIPES[name]
    model = recipe.model(seed)
    loader = DataLoader(
        Decoded(data / "train.parquet", model.transform), recipe.batch_size, shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=workers > 0,
    )  # fmt: skip
    optimizer = model.optimizer(recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    said: dict = {"batch_size": recipe.batch_size, "views": 2, "steps_per_epoch": len(loader)}
    model.train()
    try:
        for epoch in range(epochs):
            said["loss"] = one_epoch(model, loader, optimizer, epoch * len(loader), clock)
            schedule.step()
    except ValueError as error:
        said["failed"] = f"after {clock.steps} steps: {error}"
    return model, said


def one_epoch(
    model: SwAV | SMoG, loader: DataLoader, optimizer: torch.optim.Optimizer, step: int, clock: Clock
) -> float:
    """The mean loss."""
    total = 0.0
    for step, views in enumerate(loader, step):  # noqa: B020
        loss = model.loss([view.contiguous(memory_format=torch.channels_last) for view in views], step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        clock.tick(step + 1, len(loader))
    return total / len(loader)


def used(model: SwAV | SMoG, data: Path) -> int:
    """Groups that are some training image's best."""
    model.eval()
    return groups_used(features(model.scores, IMAGENET, data / "train.parquet").rows.argmax(dim=1).numpy())
