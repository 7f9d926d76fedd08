"""lightly's SwAV and SMoG with its own modules, transforms and CIFAR-10 recipes.

Written from what its documentation and benchmarks say of them: two views of 32 pixels without blur, constant settings, a cosine
per epoch without warm-up. What is not lightly's is kind to it: images are decoded beforehand, and the network and its
input lie channels-last in memory.
"""

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from clock import Clock
from judge import IMAGENET, backbone, features, groups_used
from lightly.loss import SwaVLoss
from lightly.models.modules import (
    SMoGPredictionHead,
    SMoGProjectionHead,
    SMoGPrototypes,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SMoGTransform, SwaVTransform
from PIL import Image
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

SMOG_GROUPS, SMOG_BANK, SMOG_EVERY = 300, 10_000, 300


class SwAV(nn.Module):
    """512 prototypes, no queue, no freeze; Adam."""

    groups = 512
    transform = SwaVTransform(
        crop_sizes=(32,), crop_counts=(2,), crop_min_scales=(0.14,), crop_max_scales=(1.0,),
        cj_strength=0.5, gaussian_blur=0.0,
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.backbone = backbone(seed)
        self.head = SwaVProjectionHead(self.backbone.num_features, 512, 128)
        self.prototypes = SwaVPrototypes(128, self.groups)
        self.criterion = SwaVLoss()

    def scores(self, images: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.head(self.backbone(images)), dim=1))

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        self.prototypes.normalize()
        return self.criterion([self.scores(view) for view in views], [])

    def optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3 * batch_size / 128, weight_decay=1e-6)


class SMoG(nn.Module):
    """300 groups, re-clustered every 300 steps from the last 10,000 embeddings; SGD, one rate for every batch size."""

    transposed = False
    """The published benchmark script turns the bank on its side before clustering it."""
    transform = SMoGTransform(
        crop_sizes=(32, 32), crop_counts=(1, 1), crop_min_scales=(0.2, 0.2), crop_max_scales=(1.0, 1.0),
        gaussian_blur_probs=(0.0, 0.0), solarize_probs=(0.0, 0.2),
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.backbone = backbone(seed)
        self.projector = SMoGProjectionHead(self.backbone.num_features, 2048, 128)
        self.predictor = SMoGPredictionHead(128, 2048, 128)
        self.reset_teacher()
        self.smog = SMoGPrototypes(F.normalize(torch.rand(SMOG_GROUPS, 128), dim=1), beta=0.99)
        self.bank = MemoryBankModule(size=(SMOG_BANK, 128))

    def reset_teacher(self) -> None:
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.projector]))
        deactivate_requires_grad(self.teacher)

    def refit(self) -> None:
        rows = self.bank.bank.T if self.transposed else self.bank.bank
        centers = KMeans(SMOG_GROUPS).fit(rows.numpy()).cluster_centers_
        self.smog.set_group_features(F.normalize(torch.from_numpy(centers).float(), dim=1))

    def scores(self, images: Tensor) -> Tensor:
        return self.smog(self.projector(self.backbone(images)), self.smog.group_features)

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        if step and step % SMOG_EVERY == 0:
            self.refit()
            self.reset_teacher()
        else:
            for ours, theirs in zip((self.backbone, self.projector), self.teacher, strict=True):
                update_momentum(ours, theirs, 0.99)
        seen, target = views if step % 2 == 0 else views[::-1]
        rows = self.projector(self.backbone(seen))
        with torch.no_grad():
            assignments = self.smog.assign_groups(self.teacher[1](self.teacher[0](target)))
        moved = self.smog.get_updated_group_features(rows)
        logits = self.smog(self.predictor(rows), moved, temperature=0.1)
        self.smog.set_group_features(moved.detach())
        self.bank(rows, update=True)
        return F.cross_entropy(logits, assignments)

    def optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        moving = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.SGD(moving, lr=0.01, momentum=0.9, weight_decay=1e-6)


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
