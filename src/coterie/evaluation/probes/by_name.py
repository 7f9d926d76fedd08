"""The probes by name: the same functions whether a run asks while it trains or a person asks afterwards."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from coterie.config.schema import OF_EMBEDDINGS, check_known
from coterie.embedding.embed import Embeddings
from coterie.evaluation.probes.clusters import clusters
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.probes.linear import linear, linear_published
from coterie.evaluation.probes.retrieval import retrieval
from coterie.logger import Logger


def probe_embeddings(
    probes: Sequence[str],
    train: Embeddings,
    test: Embeddings,
    *,
    groups: Int[Tensor, " m"] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, dict[str, float]]:
    """Ask each of the probes, on the device.

    Args:
        probes: of ``OF_EMBEDDINGS``.
        train: what is learned from; all labeled.
        test: what is asked; all labeled.
        groups: the run's own group of each test image, for ``clusters``.
        device: where it is computed.
        seed: of what is drawn.
        logger: is told how far it is.

    Returns:
        ``{probe: {metric: value}}``.
    """
    check_known(probes, OF_EMBEDDINGS)
    rows = (train.rows.to(device), train.labels.to(device), test.rows.to(device), test.labels.to(device))
    asked = {
        "knn": lambda: knn(*rows),
        "linear": lambda: linear(*rows, seed=seed, logger=logger),
        "linear_published": lambda: linear_published(*rows, seed=seed, logger=logger),
        "clusters": lambda: clusters(*rows, groups=groups, seed=seed, logger=logger),
        "retrieval": lambda: retrieval(*rows, logger=logger),
    }
    return {name: asked[name]() for name in probes}
