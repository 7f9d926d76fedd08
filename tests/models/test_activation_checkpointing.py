"""What a run saves by it, and that it changes no result, is tested in tests/training/test_micro_batches.py."""

import copy

import pytest
import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.activation_checkpointing import enable_activation_checkpointing, freeze_running_stats
from coterie.models.backbone import BackboneConfig, build_backbone


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None)).double()


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in module.named_buffers()}


def test_frozen_running_stats_stay_while_batches_are_normalized_as_in_training() -> None:
    frozen, plain = network(), network()
    rows = torch.randn(8, 4, dtype=torch.float64)
    frozen(rows)  # running averages that are not new
    before = buffers(frozen)
    with freeze_running_stats(frozen):
        outputs = frozen(rows + 3)
    torch.testing.assert_close(outputs, plain(rows + 3), rtol=0, atol=0)
    torch.testing.assert_close(buffers(frozen), before, rtol=0, atol=0)


def test_afterwards_running_stats_move_as_before() -> None:
    frozen = network()
    rows = torch.randn(8, 4, dtype=torch.float64)
    frozen(rows)
    other = copy.deepcopy(frozen)
    with pytest.raises(KeyError), freeze_running_stats(frozen):
        frozen(rows - 1)
        raise KeyError("an error on the way")
    frozen(rows + 1)
    other(rows + 1)
    torch.testing.assert_close(buffers(frozen), buffers(other), rtol=0, atol=0)
    assert [norm.momentum for norm in frozen[1:]] == [0.1, None]


def test_batch_norms_without_running_stats_are_left_alone() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    with freeze_running_stats(norm):
        assert norm.momentum == 0.1


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_gradients_are_the_same_and_blocks_run_twice(name: str) -> None:
    config = BackboneConfig(name, width=0.25 if name == "resnet18" else 1.0)
    backbone = build_backbone(config, 32)
    plain, images = copy.deepcopy(backbone), torch.randn(4, 3, 32, 32)
    enable_activation_checkpointing(backbone)
    layer = backbone.layer2[0].conv1 if name == "resnet18" else backbone.blocks[3].mlp.fc1
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    with freeze_running_stats(backbone):
        backbone(images).square().mean().backward()
    plain(images).square().mean().backward()
    assert len(calls) == 2, "once forward, once in the backward pass"
    assert list(backbone.state_dict()) == list(plain.state_dict())
    for (weight_name, weight), other in zip(backbone.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, msg=lambda text, n=weight_name: f"{n}: {text}")


def test_a_network_without_it_is_refused_in_one_line() -> None:
    with pytest.raises(
        BadConfig, match=r"timm does not support it for a Sequential; set it to false and micro_batches"
    ) as e:
        enable_activation_checkpointing(nn.Sequential(nn.Flatten()))
    assert "\n" not in str(e.value)
