"""What every contestant's backbone is asked, and the two rows that need no training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.open import open_source
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.probes.knn import knn
from coterie.models.backbone import BackboneConfig, build_backbone

BACKBONE = BackboneConfig("resnet18", width=0.1875, stem="small")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MOST_MACS = 0.02e9


def backbone(seed: int) -> nn.Module:
    """The network of all contestants, as new."""
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


def judge(network: Callable[[Tensor], Tensor], normalization: tuple, data: Path, split: str) -> dict[str, float]:
    """kNN, the training images voting, and the effective rank of their features."""
    train, questions = (features(network, normalization, data / f"{part}.parquet") for part in ("train", split))
    votes = knn(train.rows, train.labels, questions.rows, questions.labels, neighbors=(20, 200))
    return {
        "knn20": round(votes["k20_t0.07_top1"], 2),
        "knn200": round(votes["k200_t0.1_top1"], 2),
        "effective_rank": round(effective_rank(train.rows), 2),
        "feature_width": train.rows.shape[1],
    }


def features(network: Callable[[Tensor], Tensor], normalization: tuple, path: Path) -> Embeddings:
    """What the network makes of whole, unaugmented images."""
    return embed_source(network, open_source(str(path)), Preprocessing(32, 3, *normalization))


def effective_rank(rows: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values as shares of their sum."""
    values = torch.linalg.svdvals(rows.double())
    return float(torch.special.entr(values / values.sum()).sum().exp())


def groups_used(groups: np.ndarray) -> int:
    """Groups that are nearest to at least one of the unaugmented training images."""
    return len(np.unique(groups))


def raw_pixels(images: Tensor) -> Tensor:
    return images.flatten(1)
