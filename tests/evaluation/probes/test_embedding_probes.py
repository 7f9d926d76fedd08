import numpy as np
import pytest
import torch
from torch.nn import functional as F

from coterie.config.hardware import Runtime
from coterie.config.schema import OF_EMBEDDINGS
from coterie.embedding.embed import Embeddings
from coterie.errors import UserError
from coterie.evaluation.probes.clusters import clusters
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.probes.linear import linear, linear_published
from coterie.evaluation.probes.retrieval import retrieval
from coterie.logger import NullLogger


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.names: list[str] = []

    def progress(self, items, total, what):  # type: ignore[no-untyped-def]
        self.names.append(what)
        return iter(items)


def embeddings(count: int, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    rows = torch.randn(count, 8, generator=generator) + 1.5 * F.one_hot(labels, 8)
    return Embeddings(np.arange(count), rows, labels, ())


def test_each_probe_is_its_function_and_results_are_in_the_order_of_the_names() -> None:
    train, test, logger = embeddings(120, 0), embeddings(60, 1), Recorder()
    four = (train.rows, train.labels, test.rows, test.labels)
    groups = torch.arange(60) % 5
    probes = sorted(OF_EMBEDDINGS, reverse=True)
    found = probe_embeddings(probes, train, test, groups=groups, seed=3, runtime=Runtime(logger=logger))
    assert list(found) == probes
    assert found == {
        "knn": knn(*four),
        "linear": linear(*four, seed=3),
        "linear_published": linear_published(*four, seed=3),
        "clusters": clusters(*four, groups=groups, seed=3),
        "retrieval": retrieval(*four),
    }
    assert linear_published(*four, seed=4) != found["linear_published"] or clusters(*four, seed=4) != clusters(
        *four, seed=3
    )
    assert {"linear probe", "linear probe by SGD", "k-means", "retrieval"} <= set(logger.names)


def test_an_unknown_probe_is_refused_before_any_work() -> None:
    train, test = embeddings(12, 0), embeddings(8, 1)
    train.rows[0, 0] = torch.nan  # would be refused by kNN
    with pytest.raises(UserError, match="fortune"):
        probe_embeddings(["knn", "fortune"], train, test)
