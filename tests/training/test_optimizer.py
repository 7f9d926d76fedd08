import pytest
import torch
from torch import nn

from coterie.training.optimizer import AdamWConfig, Lars, LarsConfig, SgdConfig, set_learning_rate


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def step(optimizer: torch.optim.Optimizer, network: nn.Module, gradient: float) -> None:
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, gradient)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()


def test_lars_adapts_every_tensor_batch_norm_too() -> None:
    """The first step of a tensor is lr * trust * |w| long, however large its gradient (0 for |w| = 0 is not scaled)."""
    network = model()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = LarsConfig(momentum=0.9, weight_decay=0.0, trust=0.001).build(network)
    assert isinstance(optimizer, Lars)
    step(optimizer, network, 100.0)
    for name, weight in network.named_parameters():
        length, moved = before[name].norm(), (weight - before[name]).norm()
        expected = 0.5 * 0.001 * length if length > 0 else torch.tensor(0.5 * 100.0 * 2)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)


def test_sgd_decays_every_tensor_and_adamw_only_matrices() -> None:
    for config, vectors_decay in ((SgdConfig(weight_decay=0.1), True), (AdamWConfig(weight_decay=0.1), False)):
        network = model()
        before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        step(config.build(network), network, 0.0)
        changed = {name: not torch.equal(weight, before[name]) for name, weight in network.named_parameters()}
        assert changed["0.weight"]
        assert changed["1.weight"] == vectors_decay


@pytest.mark.parametrize("build", [LarsConfig, SgdConfig])
@pytest.mark.parametrize("bad", [{"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -1.0}])
def test_what_cannot_be(build: type, bad: dict) -> None:
    with pytest.raises(Exception, match="optimizer"):
        build(**bad)


def test_adamw_decays_matrices_only_and_no_table_of_positions() -> None:
    """SMoG on Swin-T exempts vectors and relative_position_bias_table (methods.md, section 4)."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(3, 3))
    model.bias = torch.nn.Parameter(torch.ones(3))
    model.relative_position_bias_table = torch.nn.Parameter(torch.ones(3, 3))
    groups = AdamWConfig(weight_decay=0.5).build(model).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 2]
