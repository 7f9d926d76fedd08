"""Runs probes by name: the same functions during training and afterwards."""

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from coterie.config.hardware import ON_CPU, Runtime
from coterie.config.schema import OF_EMBEDDINGS, check_known
from coterie.embedding.embed import Embeddings
from coterie.evaluation.probes.clusters import clusters
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.probes.linear import linear, linear_published
from coterie.evaluation.probes.recipe import LINEAR_RECIPE, Recipe
from coterie.evaluation.probes.retrieval import retrieval


def probe_embeddings(
    probes: Sequence[str],
    train: Embeddings,
    test: Embeddings,
    *,
    groups: Int[Tensor, " m"] | None = None,
    recipe: Recipe = LINEAR_RECIPE,
    seed: int = 0,
    runtime: Runtime = ON_CPU,
) -> dict[str, dict[str, float]]:
    """Run probes that need nothing but embeddings and labels.

    Args:
        probes: names out of ``OF_EMBEDDINGS``.
        train: embeddings to train on, all labeled.
        test: embeddings to test on, all labeled.
        groups: the run's own group of each test image, for ``clusters``.
        recipe: of ``linear_published``.
        seed: for random choices.
        runtime: where to compute; its logger receives progress.

    Returns:
        ``{probe: {metric: value}}``.

    Raises:
        UserError: an unknown probe, or data that a probe cannot use.
    """
    check_known(probes, OF_EMBEDDINGS)
    device, logger = runtime.device, runtime.logger
    rows = (train.rows.to(device), train.labels.to(device), test.rows.to(device), test.labels.to(device))
    functions = {
        "knn": lambda: knn(*rows),
        "linear": lambda: linear(*rows, seed=seed, logger=logger),
        "linear_published": lambda: linear_published(*rows, recipe=recipe, seed=seed, logger=logger),
        "clusters": lambda: clusters(*rows, groups=groups, seed=seed, logger=logger),
        "retrieval": lambda: retrieval(*rows, logger=logger),
    }
    return {name: functions[name]() for name in probes}
