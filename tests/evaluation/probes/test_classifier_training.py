import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coterie.config.hardware import ON_CPU
from coterie.data.sources.source import labels as labels_of
from coterie.errors import UserError
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes.classifier_training import ClassifierTraining
from coterie.evaluation.probes.recipe import Recipe
from coterie.evaluation.probes.supervised import crop_loader
from tests.evaluation.probes.test_supervised import PREPROCESSING, shapes

__all__ = ["shapes"]  # a fixture

RECIPE = Recipe(0.02, 0.1, epochs=3, batch_size=8)
STEPS = 3 * 4


class Stopped(Exception):  # noqa: N818
    pass


def training(pair: LabeledPair, *, several: bool = False) -> ClassifierTraining:
    """A network with batch norm and dropout, whose weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        convolution = nn.Conv2d(3, 8, 5, stride=3)
        network = nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3))
        head = nn.Linear(8 * 16, 3)
    truth = torch.from_numpy(np.asarray(labels_of(pair.train)))
    if several:
        truth = F.one_hot(truth, 3).bool()
    loader = crop_loader(pair.train, PREPROCESSING, RECIPE, seed=1, runtime=ON_CPU)
    return ClassifierTraining(network, head, loader, truth, RECIPE, ON_CPU, seed=1)


def bits(of: ClassifierTraining) -> list[torch.Tensor]:
    return [*of.network.state_dict().values(), *of.head.state_dict().values()]


@pytest.mark.parametrize("step", [6, 8])  # within an epoch, and at the end of one
def test_a_resumed_training_has_the_same_bits(shapes: LabeledPair, step: int) -> None:
    whole, losses = training(shapes), []
    whole.run(after_epoch=lambda epoch, loss: losses.append((epoch, loss)))
    assert whole.done == STEPS
    stopped, told = training(shapes), []

    def stop() -> None:
        if stopped.done == step:
            raise Stopped

    with pytest.raises(Stopped):
        stopped.run(after_step=stop, after_epoch=lambda epoch, loss: told.append((epoch, loss)))
    torch.rand(7)  # the global generator is elsewhere
    resumed = training(shapes)
    resumed.load_state_dict(stopped.state_dict())
    resumed.run(after_epoch=lambda epoch, loss: told.append((epoch, loss)))
    assert told == losses
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert all(map(torch.equal, bits(whole), bits(resumed)))


def test_several_labels_are_learned(shapes: LabeledPair) -> None:
    several, losses = training(shapes, several=True), []
    several.run(after_epoch=lambda _, loss: losses.append(loss))
    assert losses[-1] < losses[0] < 4 * np.log(2)


def test_a_state_of_another_network_is_refused(shapes: LabeledPair) -> None:
    state = training(shapes).state_dict()
    other = training(shapes)
    state["head"] = {name: value[:2] for name, value in state["head"].items()}
    with pytest.raises((RuntimeError, UserError)):
        other.load_state_dict(state)
