"""Whatever an evaluation creates is on the device of its inputs, or on the one that it is given."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coterie.config.hardware import Runtime
from coterie.config.schema import OF_EMBEDDINGS
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.sources.open import open_source
from coterie.embedding.embed import EMBED_BATCH_SIZE, Embedder, Embeddings, embed_source
from coterie.embedding.rows import EmbeddingRows
from coterie.evaluation.augmented_views import embed_views
from coterie.evaluation.label_free import label_free
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair
from coterie.evaluation.probes.clusters import clusters
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.evaluation.probes.few_labels import FewLabels
from coterie.evaluation.probes.finetuning import finetune, limit_head_lr
from coterie.evaluation.probes.knn import knn, knn_predictions
from coterie.evaluation.probes.linear import linear, linear_sgd
from coterie.evaluation.probes.recipe import Recipe
from coterie.evaluation.probes.retrieval import retrieval
from coterie.evaluation.probes.supervised import linear_published_images, train_classifier
from coterie.evaluation.probes.svm import low_shot, svm
from tests.evaluation.accelerator import DEVICE, OnAccelerator, accelerator
from tests.evaluation.probes.test_supervised import PREPROCESSING, network, write

ON_DEVICE = Runtime(device=torch.device(DEVICE))

CLASSES = 4
SHORT = Recipe(0.02, 0.1, epochs=2, batch_size=6)


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    rows = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return rows + F.one_hot(labels, 6), labels


TRAIN, TEST = features(60, 0), features(30, 1)
GROUPS = torch.arange(30) % 5
MATRICES = (F.one_hot(TRAIN[1]).bool(), F.one_hot(TEST[1]).bool())
FUNCTIONS: dict[str, tuple[Callable[..., dict[str, float]], tuple[Tensor, ...]]] = {
    "knn": (knn, (*TRAIN, *TEST)),
    "linear": (linear, (*TRAIN, *TEST)),
    "linear_sgd": (
        lambda *four: linear_sgd(*four, learning_rates=(0.01, 0.1), epochs=3, standardize=True),
        (*TRAIN, *TEST),
    ),
    "clusters": (lambda *four: clusters(*four[:4], groups=four[4]), (*TRAIN, *TEST, GROUPS)),
    "retrieval": (retrieval, (*TRAIN, *TEST)),
    "retrieval of itself": (lambda rows, labels: retrieval(rows, labels, rows, labels), TRAIN),
    "svm": (lambda *four: svm(*four, costs=(1.0,)), (TRAIN[0], MATRICES[0], TEST[0], MATRICES[1])),
    "low_shot": (lambda *four: low_shot(*four, shots=(2,)), (TRAIN[0], MATRICES[0], TEST[0], MATRICES[1])),
    "label_free": (
        lambda rows, views, groups, earlier: label_free(rows, views, groups, 5, earlier),
        (TEST[0], TEST[0] + torch.linspace(0, 1, 3)[:, None, None], GROUPS.repeat(3, 1), TEST[0].square()),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_metrics_are_computed_on_the_device_of_their_inputs(name: str) -> None:
    function, inputs = FUNCTIONS[name]
    here = function(*inputs)
    with accelerator():
        there = function(*map(OnAccelerator, inputs))
    assert there == pytest.approx(here)


def test_predictions_stay_on_the_device_of_their_inputs() -> None:
    with accelerator():
        found = knn_predictions(*map(OnAccelerator, (*TRAIN, TEST[0])))
    assert found.device == DEVICE
    assert torch.equal(found.inner, knn_predictions(*TRAIN, TEST[0]))


def test_probes_are_computed_on_the_device_they_are_given() -> None:
    train, test = (Embeddings(np.arange(len(rows)), rows, labels, ()) for rows, labels in (TRAIN, TEST))
    here = probe_embeddings(OF_EMBEDDINGS, train, test, groups=GROUPS)
    with accelerator():
        there = probe_embeddings(OF_EMBEDDINGS, train, test, groups=OnAccelerator(GROUPS), runtime=ON_DEVICE)
    assert there.keys() == here.keys()
    assert all(there[name] == pytest.approx(here[name]) for name in here)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LabeledPair:
    root = tmp_path_factory.mktemp("shapes")
    return labeled_pair(open_source(write(root / "train", 6)), open_source(write(root / "test", 4, start=100)))


def test_images_are_embedded_on_the_device_they_are_given(pair: LabeledPair) -> None:
    here = embed_source(network().eval(), pair.test, PREPROCESSING)
    plan = ViewPlan((Crops(1, 16, (0.3, 1.0)),), mean=PREPROCESSING.mean, std=PREPROCESSING.std)
    views = embed_views(lambda batch: (network().eval()(batch),), pair.test, np.arange(5), plan, 0)
    with accelerator():
        moved = network().eval().to(DEVICE)
        there = embed_source(moved, pair.test, PREPROCESSING, runtime=ON_DEVICE)
        views_there = embed_views(
            lambda batch: (moved(batch),),
            pair.test,
            np.arange(5),
            plan,
            0,
            runtime=ON_DEVICE,
        )
        embedder = Embedder(
            lambda batch: (moved(batch),), pair.test, PREPROCESSING, EmbeddingRows(64), runtime=ON_DEVICE
        )
        ((_, (output,), _),) = embedder.range_batches([(0, len(pair.test))])
    assert there.rows.device.type == views_there[0].device.type == "cpu"
    assert output.device == DEVICE
    for found in (there.rows, output.inner):
        torch.testing.assert_close(found, here.rows)
    torch.testing.assert_close(views_there[0], views[0])
    assert len(pair.test) < EMBED_BATCH_SIZE


def build() -> torch.nn.Module:
    return network(3)


TRAININGS: dict[str, Callable[[LabeledPair, torch.device], dict[str, float]]] = {
    "train_classifier": lambda pair, device: train_classifier(
        network(), pair, PREPROCESSING, SHORT, runtime=Runtime(device=torch.device(device))
    ),
    "linear_published_images": lambda pair, device: linear_published_images(
        network(), pair, PREPROCESSING, recipe=SHORT, runtime=Runtime(device=torch.device(device))
    ),
    "finetune": lambda pair, device: finetune(
        network(),
        pair,
        PREPROCESSING,
        build=build,
        few=FewLabels(per_class=4),
        recipe=SHORT,
        scratch=SHORT,
        runtime=Runtime(device=torch.device(device)),
    ),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_networks_are_trained_on_the_device_they_are_given(name: str, pair: LabeledPair) -> None:
    here = TRAININGS[name](pair, torch.device("cpu"))
    with accelerator():
        there = TRAININGS[name](pair, DEVICE)
    assert there == pytest.approx(here, abs=100 / len(pair.test))  # one image, should a sum be taken in another order


def test_a_trained_network_stays_on_the_device(pair: LabeledPair) -> None:
    net = network()
    with accelerator():
        limited = limit_head_lr(Recipe(0.02, 1e9, 1), net.to(DEVICE), pair, PREPROCESSING, runtime=ON_DEVICE)
        train_classifier(net, pair, PREPROCESSING, replace(SHORT, epochs=1), runtime=ON_DEVICE)
    assert limited.head_lr == pytest.approx(
        limit_head_lr(Recipe(0.02, 1e9, 1), network(), pair, PREPROCESSING).head_lr, rel=1e-4
    )
    assert {value.device for value in net.state_dict().values()} == {DEVICE}


def test_tensors_of_two_devices_do_not_mix() -> None:
    """The stand-in itself: what fails on a GPU fails on it, what works works."""
    with accelerator():
        there = torch.tensor([3.0, 1.0, 2.0], device=DEVICE)
        assert (there + torch.tensor(1.0)).tolist() == [4, 2, 3]  # a single number may come from the CPU
        assert there[torch.tensor([1, 2])].tolist() == [1, 2]
        assert (there + torch.ones(3).to(there)).sum().item() == 9
        assert there.new_zeros(2).device == torch.arange(2, device=DEVICE).device == DEVICE
        for broken in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there.long().clamp(max=2)],
            lambda: torch.cat([there, torch.zeros(1)]),
            lambda: there.masked_fill(torch.tensor([True, False, True]), 0),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                broken()
