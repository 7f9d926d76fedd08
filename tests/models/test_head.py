import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.errors import BadConfig
from coterie.models.head import Head, HeadConfig


def test_the_default_is_the_projector_of_swav():
    head = Head(2048, HeadConfig())
    assert [type(layer) for layer in head.layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [tuple(p.shape) for p in head.parameters()] == [(2048, 2048), *[(2048,)] * 3, (128, 2048), (128,)]


def test_outputs_follow_the_formula_and_are_not_unit_rows():
    head = Head(5, HeadConfig(hidden=(7,), width=3)).double()
    rows = torch.randn(11, 5, dtype=torch.float64)
    first, _, _, last = head.layers
    hidden = rows @ first.weight.T + first.bias
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    expected = hidden.clamp(min=0) @ last.weight.T + last.bias
    torch.testing.assert_close(head(rows), expected, rtol=1e-12, atol=1e-12)
    assert (head(rows).norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
def test_each_hidden_width_adds_a_linear_layer_with_its_batch_norm(hidden):
    head = Head(5, HeadConfig(hidden=hidden, width=3))
    linears = [m for m in head.layers if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linears] == [*hidden, 3]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in head.layers) == len(hidden)
    assert all(m.bias is not None for m in linears)


def test_without_batch_norm_a_row_does_not_depend_on_the_others():
    head = Head(5, HeadConfig(hidden=(6,), width=3, batch_norm=False, activation="gelu"))
    rows = torch.randn(8, 5)
    torch.testing.assert_close(head(rows)[:2], head(rows[:2]))
    first, _, last = head.layers
    torch.testing.assert_close(head(rows), last(F.gelu(first(rows))))


def test_a_last_batch_norm_has_no_scale_and_no_shift():
    head = Head(5, HeadConfig(hidden=(6,), width=3, last_batch_norm=True))
    outputs = head(torch.randn(64, 5))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(3), atol=1e-2, rtol=0)
    assert not list(head.layers[-1].parameters())


@pytest.mark.parametrize("config", [HeadConfig(width=0), HeadConfig(hidden=(0,)), HeadConfig(hidden=(), width=-1)])
def test_widths_below_one_are_refused_in_one_line(config):
    with pytest.raises(BadConfig, match=r"widths of at least 1") as caught:
        Head(4, config)
    assert "\n" not in str(caught.value)


def linear(inputs: int, outputs: int) -> tuple[str, tuple[int, int]]:
    return "Linear", (inputs, outputs)


def norm(width: int, affine: bool = True) -> tuple[str, tuple[int, bool]]:
    return "BatchNorm1d", (width, affine)


def layers(head: Head) -> list[object]:
    found: list[object] = []
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            found.append(linear(layer.in_features, layer.out_features))
        elif isinstance(layer, nn.BatchNorm1d):
            found.append(norm(layer.num_features, layer.affine))
        else:
            found.append(type(layer).__name__)
    return found


@pytest.mark.parametrize(("inputs", "width", "activation"), [(2048, 128, "ReLU"), (768, 256, "GELU")])
def test_the_heads_of_smog(inputs, width, activation):
    projector = HeadConfig(width=width, last_batch_norm=True, activation=activation.lower())
    hidden = [norm(2048), activation]
    assert layers(Head(inputs, projector)) == [linear(inputs, 2048), *hidden, linear(2048, width), norm(width, False)]
    predictor = HeadConfig(width=width, activation=activation.lower())
    assert layers(Head(width, predictor)) == [linear(width, 2048), *hidden, linear(2048, width)]


def test_the_projector_of_resa():
    projector = Head(2048, HeadConfig(hidden=(2048, 2048), width=512, last_batch_norm=True))
    hidden = [linear(2048, 2048), norm(2048), "ReLU"]
    assert layers(projector) == [*hidden, *hidden, linear(2048, 512), norm(512, False)]
