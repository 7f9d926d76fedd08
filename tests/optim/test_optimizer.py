import pytest
import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.optim.lars import Lars
from coterie.optim.optimizer import AdamWConfig, LarsConfig, SgdConfig, set_learning_rate
from coterie.optim.schedule import Constant


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def step(optimizer: torch.optim.Optimizer, network: nn.Module, gradient: float) -> None:
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, gradient)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()


def test_lars_adapts_to_every_tensor_including_batch_norms() -> None:
    """The first step of a tensor has length lr * trust * |w|, however large its gradient; a tensor of zeros is not scaled."""
    network = model()
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    optimizer = LarsConfig(momentum=0.9, weight_decay=Constant(0.0), trust=0.001).build(network)
    assert isinstance(optimizer, Lars)
    step(optimizer, network, 100.0)
    for name, weight in network.named_parameters():
        length, moved = before[name].norm(), (weight - before[name]).norm()
        expected = 0.5 * 0.001 * length if length > 0 else torch.tensor(0.5 * 100.0 * 2)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)


def test_sgd_decays_every_tensor_and_adamw_only_matrices() -> None:
    for config, vectors_decay in (
        (SgdConfig(weight_decay=Constant(0.1)), True),
        (AdamWConfig(weight_decay=Constant(0.1)), False),
    ):
        network = model()
        before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        step(config.build(network), network, 0.0)
        changed = {name: not torch.equal(weight, before[name]) for name, weight in network.named_parameters()}
        assert changed["0.weight"]
        assert changed["1.weight"] == vectors_decay


@pytest.mark.parametrize("build", [LarsConfig, SgdConfig])
@pytest.mark.parametrize(
    "bad",
    [
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": Constant(-1.0)},
        {"layer_decay": 0.0},
        {"layer_decay": 1.5},
    ],
)
def test_impossible_settings_are_refused_in_one_line(build: type, bad: dict) -> None:
    with pytest.raises(
        BadConfig, match=r"^optimizer.*(at least 0 and below 1|cannot be negative|at most 1 .*)$"
    ) as caught:
        build(**bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("betas", [(1.0, 0.999), (0.9, -0.1)])
def test_both_betas_are_checked(betas: tuple[float, float]) -> None:
    with pytest.raises(
        BadConfig, match=r"^optimizer: a momentum \(or beta\) is .*: it must be at least 0 and below 1$"
    ):
        AdamWConfig(betas=betas)


def test_defaults_are_the_published_values() -> None:
    """methods.md, 2.1 (SwAV: LARS with momentum 0.9, decay 1e-6, trust 0.001), 2.8 (ReSA: SGD) and 4 (SMoG's Swin-T: AdamW)."""
    assert LarsConfig() == LarsConfig(momentum=0.9, weight_decay=Constant(1e-6), trust=0.001)
    assert SgdConfig() == SgdConfig(momentum=0.9, weight_decay=Constant(1e-4))
    assert AdamWConfig() == AdamWConfig(betas=(0.9, 0.999), weight_decay=Constant(0.05))


@pytest.mark.parametrize(
    "config",
    [LarsConfig(0.8, Constant(0.3), 0.02), SgdConfig(0.8, Constant(0.3)), AdamWConfig((0.8, 0.7), Constant(0.3))],
)
def test_settings_reach_the_optimizer(config: LarsConfig | SgdConfig | AdamWConfig) -> None:
    group = config.build(model()).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.0, 0.3)
    assert group["betas" if "betas" in group else "momentum"] == ((0.8, 0.7) if "betas" in group else 0.8)
    assert group.get("trust_coeff", 0.02) == 0.02


def test_adamw_decays_matrices_only_and_no_position_embeddings() -> None:
    """SMoG on Swin-T exempts vectors and relative_position_bias_table (methods.md, section 4)."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(3, 3))
    model.bias = torch.nn.Parameter(torch.ones(3))
    model.relative_position_bias_table = torch.nn.Parameter(torch.ones(3, 3))
    groups = AdamWConfig(weight_decay=Constant(0.5)).build(model).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 2]


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Shapes of a network: a kernel in channels_last, a matrix, a scale, a bias of zeros."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((8, 4, 3, 3), (6, 8), (6,), (6,))
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    made[0], made[3] = made[0].to(memory_format=torch.channels_last), made[3] * 0
    return made


@pytest.mark.parametrize(
    "config", [LarsConfig(weight_decay=Constant(0.1)), SgdConfig(weight_decay=Constant(0.1)), AdamWConfig()]
)
def test_a_step_from_saved_state_is_bitwise_the_same_step(config: LarsConfig | SgdConfig | AdamWConfig) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.ParameterList([nn.Parameter(value) for value in tensors(0)])

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            set_learning_rate(optimizer, 0.1)
            for weight, gradient in zip(network.parameters(), tensors(seed), strict=True):
                weight.grad = gradient
            optimizer.step()

    whole, broken = Weights(), Weights()
    optimizer, first = config.build(whole), config.build(broken)
    steps(whole, optimizer, range(1, 6))
    steps(broken, first, range(1, 3))
    again = config.build(broken)
    again.load_state_dict(first.state_dict())
    steps(broken, again, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), broken.parameters(), strict=True))


@pytest.mark.parametrize("config", [SgdConfig(weight_decay=Constant(0.1)), AdamWConfig(weight_decay=Constant(0.1))])
def test_fused_steps_are_the_plain_ones(config: SgdConfig | AdamWConfig) -> None:
    """torch's fused steps read raw memory: gradients must have the layout of their weights, as backward leaves them."""
    networks = []
    for fused in (True, False):
        torch.manual_seed(0)
        convolutions = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 1)
        network = nn.Sequential(convolutions[0], nn.BatchNorm2d(8), convolutions[1], nn.Flatten()).double()
        network.to(memory_format=torch.channels_last)
        optimizer = config.build(network)
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        if not fused:
            optimizer = type(optimizer)(optimizer.param_groups, fused=False, foreach=False)
        for step in range(5):
            set_learning_rate(optimizer, 0.05)
            images = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            network(images).square().mean().backward()
            assert all(weight.grad.stride() == weight.stride() for weight in network.parameters())
            optimizer.step()
            optimizer.zero_grad()
        networks.append(network)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_lars_loads_the_state_of_timms_lars() -> None:
    """Older checkpoints were written with timm's LARS, whose parameter groups have further settings."""
    weights = [nn.Parameter(value) for value in tensors(0)]
    optimizer = LarsConfig().build(nn.ParameterList(weights))
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= {"dampening": 0, "nesterov": False, "always_adapt": True, "foreach": None}
    saved["state"] = {number: {"momentum_buffer": value + 1} for number, value in enumerate(tensors(1))}
    optimizer.load_state_dict(saved)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    set_learning_rate(optimizer, 1.0)
    optimizer.step()
    for weight, before, buffer in zip(weights, tensors(0), tensors(1), strict=True):
        torch.testing.assert_close(weight, before - 0.9 * (buffer + 1))
