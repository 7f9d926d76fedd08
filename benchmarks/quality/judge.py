"""What every contestant's backbone is asked after its last epoch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.open import open_source
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.probes.linear import linear
from coterie.models.backbone import BackboneConfig, build_backbone

BACKBONE = BackboneConfig("resnet18", width=0.1875, stem="small")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = Preprocessing(32, 3, *IMAGENET)
"""Whole images, as lightly's networks know them."""
MOST_MACS = 0.02e9
FOLDS, FOLD_SEED = 5, 20240
MANY_VOTERS = 2000
"""From here on, a vote of 200 is asked for too."""
MOST_CLASSES = 100
"""Up to here, the linear probe is fitted too: with the 237 of the patches it takes longer than a proxy's training."""


def backbone(seed: int) -> nn.Module:
    """The network of all contestants on CIFAR-10, as new."""
    torch.manual_seed(seed)
    network = build_backbone(BACKBONE, 32)
    assert macs(network) <= MOST_MACS
    return network.to(memory_format=torch.channels_last)


@torch.inference_mode()
def macs(network: nn.Module, size: int = 32) -> int:
    """Multiplications of the convolutions and linear layers for one image."""
    count = 0

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        weight: Tensor = layer.weight  # type: ignore[assignment]
        count += output[0].numel() * weight[0].numel()

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = network.training
    network.eval()(torch.zeros(1, 3, size, size))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return count


def judge(
    network: Callable[[Tensor], Tensor], preprocessing: Preprocessing, train: Path, asked: Path | None
) -> dict[str, float]:
    """kNN and linear probe, the images that were trained on as voters, and the effective rank of their features.

    Without ``asked``, each of five folds is asked in turn, the other four voting, and the figures are of all answers together.
    """
    voters = features(network, preprocessing, train)
    if asked is None:
        figures = in_folds(voters.rows, voters.labels)
    else:
        questions = features(network, preprocessing, asked)
        figures = probes(voters.rows, voters.labels, questions.rows, questions.labels)
    figures |= {"effective_rank": effective_rank(voters.rows), "feature_width": voters.rows.shape[1]}
    return {name: round(value, 2) for name, value in figures.items()}


def probes(rows: Tensor, labels: Tensor, asked: Tensor, answers: Tensor) -> dict[str, float]:
    neighbors = (20, 200) if len(rows) >= MANY_VOTERS else (20,)
    votes = knn(rows, labels, asked, answers, neighbors=neighbors)
    found = {"knn20": votes["k20_t0.07_top1"]}
    found |= {"knn200": votes["k200_t0.1_top1"]} if len(neighbors) > 1 else {}
    if len(labels.unique()) <= MOST_CLASSES:
        found |= {"linear": linear(rows, labels, asked, answers)["top1"]}
    return found


def in_folds(rows: Tensor, labels: Tensor) -> dict[str, float]:
    """The figures of five folds, weighted by how many images each asks."""
    numbers, total, count = folds(labels), {}, 0
    for fold in range(FOLDS):
        asked = numbers == fold
        found = probes(rows[~asked], labels[~asked], rows[asked], labels[asked])
        total = {name: total.get(name, 0.0) + value * int(asked.sum()) for name, value in found.items()}
        count += int(asked.sum())
    return {name: value / count for name, value in total.items()}


def folds(labels: Tensor) -> Tensor:
    """The fold of each image: each class evenly over all. A class of fewer images than folds always votes (-1)."""
    numbers, generator = torch.full_like(labels, -1), np.random.default_rng(FOLD_SEED)
    dealt = 0
    for label in labels.unique():
        mixed = torch.from_numpy(generator.permutation(np.flatnonzero(labels == label)))
        if len(mixed) >= FOLDS:
            numbers[mixed] = (dealt + torch.arange(len(mixed))) % FOLDS
            dealt += len(mixed)
    return numbers


def features(network: Callable[[Tensor], Tensor], preprocessing: Preprocessing, path: Path) -> Embeddings:
    """What the network makes of whole, unaugmented images."""
    return embed_source(network, open_source(str(path)), preprocessing)


def effective_rank(rows: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values as shares of their sum."""
    values = torch.linalg.svdvals(rows.double())
    return float(torch.special.entr(values / values.sum()).sum().exp())


def groups_used(groups: np.ndarray) -> int:
    """Groups that are nearest to at least one of the unaugmented training images."""
    return len(np.unique(groups))
