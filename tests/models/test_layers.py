"""Which layers a backbone has, and what freezing some of them does to their modules."""

import pytest
import timm
import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.layers import check_trainable, freeze, layer_numbers


@pytest.mark.parametrize(
    ("name", "layers", "stem", "last"),
    [
        ("resnet18", 8, ["conv1.weight", "bn1.weight", "bn1.bias"], "layer4.1.bn2.weight"),
        ("vit_tiny_patch16_224", 12, ["cls_token", "pos_embed", "patch_embed.proj.weight"], "norm.weight"),
        ("convnext_atto", 12, ["stem.0.weight", "stem.1.weight"], "head.norm.weight"),
        ("mobilenetv3_small_050", 12, ["conv_stem.weight", "bn1.weight"], "conv_head.weight"),
        ("efficientnet_b0", 16, ["conv_stem.weight", "bn1.weight"], "bn2.weight"),
        ("swin_tiny_patch4_window7_224", 12, ["patch_embed.proj.weight"], "norm.weight"),
    ],
)
def test_the_stem_and_the_blocks(name: str, layers: int, stem: list[str], last: str) -> None:
    """As many blocks as the papers give; what comes after the last one belongs to it."""
    with torch.device("meta"):
        numbers = layer_numbers(timm.create_model(name, num_classes=0))
    assert {numbers[each] for each in stem} == {0}
    assert numbers[last] == max(numbers.values())
    assert set(numbers.values()) == set(range(max(numbers.values()) + 1))
    assert max(numbers.values()) == layers


def test_a_network_whose_layers_timm_does_not_order() -> None:
    with torch.device("meta"):
        network = timm.create_model("pit_ti_224", num_classes=0)
    with pytest.raises(BadConfig, match=r"timm does not say what the layers of a PoolingVisionTransformer are: use"):
        freeze(network, "last:1", "pit_ti_224")
    assert freeze(network, "none", "pit_ti_224") == ("",)


@pytest.mark.parametrize(
    ("trainable", "modules", "trained"),
    [
        ("last:1", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4.0"}, ("layer4.1.",)),
        ("last:3", {"conv1", "bn1", "layer1", "layer2", "layer3.0"}, ("layer3.1.", "layer4.")),
        ("last:8", {"conv1", "bn1"}, ("layer",)),
        ("none", {""}, ()),
    ],
)
def test_what_is_frozen(trainable: str, modules: set[str], trained: tuple[str, ...]) -> None:
    network = timm.create_model("resnet18", num_classes=0)
    assert set(freeze(network, trainable, "resnet18")) == modules
    for name, weight in network.named_parameters():
        assert weight.requires_grad == name.startswith(trained or "nothing"), name


def test_all_changes_nothing() -> None:
    network = nn.Linear(2, 2)  # whatever it is
    network.bias.requires_grad_(False)
    assert freeze(network, "all", "a network") == ()
    assert not network.bias.requires_grad


@pytest.mark.parametrize("bad", ["last:0", "last", "last:-1", "first:2", "last:two", "", "All", "last:1.5"])
def test_other_values_are_refused(bad: str) -> None:
    with pytest.raises(BadConfig, match=r"^backbone.trainable is .*: give all, none, or last:N") as caught:
        check_trainable(bad)
    assert "\n" not in str(caught.value)


def test_more_layers_than_there_are() -> None:
    network = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(
        BadConfig, match="'last:99', but resnet18 has 8 layers after its stem: use last:8 or fewer, or all"
    ):
        freeze(network, "last:99", "resnet18")
