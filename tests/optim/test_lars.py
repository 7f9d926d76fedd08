import pytest
import torch
from torch import nn

from coterie.optim.lars import Lars


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def step(optimizer: Lars, *gradients: tuple[float, ...]) -> None:
    for each, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        each.grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer.step()


def test_two_steps_computed_by_hand() -> None:
    """|w| = 5 and |g| = 10: the rate is 0.1 x 5 / (10 + 0.2 x 5) = 1 / 22, and g + decay w = (6.6, 8.8)."""
    w = weight(3.0, 4.0)
    optimizer = Lars([w], lr=0.5, momentum=0.9, weight_decay=0.2, trust_coeff=0.1, eps=0.0)
    step(optimizer, (6.0, 8.0))
    assert w.tolist() == pytest.approx([3 - 0.5 * 0.3, 4 - 0.5 * 0.4])  # the buffer is (6.6, 8.8) / 22
    step(optimizer, (6.0, 8.0))
    rate = 0.1 * 4.75 / (10 + 0.2 * 4.75)  # |w| is 4.75 now
    buffer = [0.9 * 0.3 + rate * (6 + 0.2 * 2.85), 0.9 * 0.4 + rate * (8 + 0.2 * 3.8)]
    assert w.tolist() == pytest.approx([2.85 - 0.5 * buffer[0], 3.8 - 0.5 * buffer[1]])


def test_eps_is_added_to_the_denominator() -> None:
    w = weight(3.0, 4.0)
    step(Lars([w], lr=1.0, trust_coeff=0.1, eps=1.0), (1.0, 0.0))
    assert w.tolist() == pytest.approx([3 - 0.1 * 5 / (1 + 1), 4])


def test_every_tensor_has_a_rate_of_its_own() -> None:
    small, large = weight(0.3, 0.4), weight(30.0, 40.0)
    step(Lars([small, large], lr=1.0, trust_coeff=0.1, eps=0.0), (1.0, 0.0), (1.0, 0.0))
    assert small.tolist() == pytest.approx([0.3 - 0.1 * 0.5, 0.4])
    assert large.tolist() == pytest.approx([30 - 0.1 * 50, 40])


def test_a_tensor_of_zeros_is_not_scaled() -> None:
    zeros = weight(0.0, 0.0)
    step(Lars([zeros], lr=0.5, trust_coeff=0.001), (2.0, -4.0))
    assert zeros.tolist() == [-1.0, 2.0]


def test_a_zero_gradient_moves_nothing_and_decays_nothing() -> None:
    w, without = weight(3.0, 4.0), weight(1.0)
    optimizer = Lars([w, without], lr=0.5, weight_decay=0.5)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    assert w.tolist() == [3.0, 4.0]
    assert without.tolist() == [1.0]
    assert "momentum_buffer" not in optimizer.state[without]


def test_a_clipped_rate_is_at_most_the_learning_rate() -> None:
    """As in LARC: a rate of 0.1 x 5 / 0.5 = 1 above lr = 0.5 becomes 0.5, so the step is lr x g; one below stays."""
    above, below = weight(3.0, 4.0), weight(3.0, 4.0)
    step(Lars([above, below], lr=0.5, trust_coeff=0.1, trust_clip=True, eps=0.0), (0.5, 0.0), (5.0, 0.0))
    assert above.tolist() == pytest.approx([3 - 0.5 * 0.5, 4])
    assert below.tolist() == pytest.approx([3 - 0.1 * 5, 4])


def test_defaults_are_those_of_the_released_code() -> None:
    """methods.md, 2.1: momentum 0.9, trust coefficient 0.001, clip=False."""
    defaults = Lars([weight(1.0)]).defaults
    expected = {"lr": 0.0, "momentum": 0.9, "weight_decay": 0.0, "trust_coeff": 0.001, "trust_clip": False, "eps": 1e-8}
    assert defaults == expected


def test_a_closure_is_called_with_gradients_enabled() -> None:
    w = weight(3.0, 4.0)
    optimizer = Lars([w], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 25.0
    assert w.tolist() != [3.0, 4.0]
