"""lightly's SwAV, SMoG and SimCLR with its own modules, transforms and CIFAR-10 recipes.

Written from what its documentation and benchmarks say of them: two views of 32 pixels without blur, constant settings, a cosine
per epoch without warm-up. What is not lightly's is kind to it: images are decoded beforehand, and the network and its
input lie channels-last in memory. Each method also has rows with its other documented batch and in bfloat16, which this library
chooses by itself where the processor has it: ours is beside the best of them.
"""

import math
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
from judge import CIFAR10, backbone, features, groups_used
from lightly.transforms import SimCLRTransform, SMoGTransform, SwaVTransform
from PIL import Image
from torch import Tensor, nn
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


class SimCLR(lightly_models.SimCLR):
    """Its transform with the settings that it recommends for CIFAR-10; SGD."""

    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)

    def __init__(self, seed: int) -> None:
        network = backbone(seed)
        super().__init__(network, network.num_features)


Model = SwAV | SMoG | SimCLR


@dataclass(frozen=True)
class Recipe:
    """A contestant of lightly's: model, batch, and whether its network computes in bfloat16."""

    model: Callable[[int], Model]
    batch_size: int = 128
    bfloat16: bool = False


RECIPES = {
    "lightly-swav": Recipe(SwAV),
    "lightly-swav-512": Recipe(SwAV, 512),
    "lightly-swav-bfloat16": Recipe(SwAV, bfloat16=True),
    "lightly-smog-transposed": Recipe(SMoGTransposed),
    "lightly-smog-mended": Recipe(SMoG),
    "lightly-smog-mended-512": Recipe(SMoG, 512),
    "lightly-smog-mended-bfloat16": Recipe(SMoG, bfloat16=True),
    "lightly-simclr": Recipe(SimCLR),
    "lightly-simclr-512": Recipe(SimCLR, 512),
    "lightly-simclr-bfloat16": Recipe(SimCLR, bfloat16=True),
}


class Bfloat16(nn.Module):
    """A network that computes in bfloat16; heads, prototypes and losses stay in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(images).float()


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


def train(name: str, images: Path, epochs: int, seed: int, workers: int, clock: Clock) -> tuple[Model, dict]:
    """The trained model, and what its last epoch said. A model that fails is judged as it stood."""
    warnings.filterwarnings("ignore", message=".*ToTensor.*")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- scikit-learn and lightly's transforms draw from it
    recipe = RECIPES[name]
    model = recipe.model(seed)
    network = model.backbone
    if recipe.bfloat16:
        model.backbone = Bfloat16(network)
        if isinstance(model, SMoG):
            model.reset_teacher()
    decoded = Decoded(images, model.transform)
    batch = min(recipe.batch_size, len(decoded))
    loader = DataLoader(
        decoded, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    clock.period = max(1, math.ceil(getattr(model, "every", 0) / len(loader)))  # SMoG's clustering
    optimizer = model.optimizer(batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    said: dict = {"batch_size": batch, "views": 2, "precision": "bfloat16" if recipe.bfloat16 else "float32"}
    model.train()
    try:
        for epoch in range(epochs):
            said["loss"] = one_epoch(model, loader, optimizer, epoch * len(loader), clock)
            schedule.step()
    except ValueError as error:
        said["failed"] = f"after {clock.steps} steps: {error}"
    model.backbone = network  # judged in float32, as all are
    return model, said


def one_epoch(model: Model, loader: DataLoader, optimizer: torch.optim.Optimizer, step: int, clock: Clock) -> float:
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


def used(model: Model, images: Path) -> int | None:
    """Groups that are some training image's best; None for SimCLR, which has none."""
    if isinstance(model, SimCLR):
        return None
    model.eval()
    return groups_used(features(model.scores, CIFAR10, images).rows.argmax(dim=1).numpy())
