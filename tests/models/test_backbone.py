import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import (
    BackboneConfig,
    build_backbone,
    feature_width,
    is_plain_timm,
    timm_arguments,
)
from coterie.models.image_sizes import check_view_sizes


@pytest.mark.parametrize(("width", "millions"), [(1.0, 23.5), (2.0, 94), (4.0, 375), (5.0, 586)])
def test_the_wide_resnets_of_swav_have_their_sizes(width, millions):
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig("resnet50", width=width), 224)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.6)
    assert feature_width(backbone) == 2048 * width
    # The released code widens the stem too: otherwise the public weights would not fit.
    assert backbone.conv1.weight.shape == (64 * width, 3, 7, 7)
    assert backbone.layer1[0].conv1.weight.shape == (64 * width, 64 * width, 1, 1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_has_the_names_and_shapes_of_torchvision(name):
    with torch.device("meta"):
        ours = build_backbone(BackboneConfig(name), 224).state_dict()
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    shapes = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.items()} == shapes


def test_a_resnet_is_initialized_like_swavs():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig("resnet18"), 224)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), name  # the last of a block too
            assert (module.bias == 0).all(), name
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1), name


@pytest.mark.parametrize("width", [0.25, 1.0, 2.0])
def test_the_small_stem_keeps_the_resolution(width):
    backbone = build_backbone(BackboneConfig("resnet18", width=width, stem="small"), 32)
    stem = backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(torch.randn(2, 3, 32, 32)))))
    assert stem.shape == (2, 64 * width, 32, 32)
    assert backbone.conv1.weight.shape[2:] == (3, 3)
    expected = math.sqrt(2 / (64 * width * 9))
    assert float(backbone.conv1.weight.detach().std()) == pytest.approx(expected, rel=0.15)
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, 512 * width)


@pytest.mark.parametrize("stem", ["standard", "small"])
def test_a_resnet_with_a_deep_stem_builds_too(stem):
    backbone = build_backbone(BackboneConfig("resnet18d", stem=stem), 32)
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(name, channels):
    config = BackboneConfig(name, channels=channels)
    check_view_sizes(build_backbone(config, 64), config, [64, 32])


def test_a_transformer_is_laid_out_for_the_image_size():
    backbone = build_backbone(BackboneConfig("vit_tiny_patch16_224"), 64)
    assert backbone.pos_embed.shape == (1, 1 + 16, 192)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_drop_path_drops_in_training_only(name):
    torch.manual_seed(0)
    config = BackboneConfig(name, drop_path=0.5)
    backbone = build_backbone(config, 32)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(backbone(images), backbone(images))
    backbone.eval()
    torch.testing.assert_close(backbone(images), backbone(images), rtol=0, atol=0)


def test_the_feature_width_is_that_of_the_output():
    # timm's num_features is 288 for this one, whose last layer comes after pooling.
    config = BackboneConfig("mobilenetv3_small_050")
    backbone = build_backbone(config, 32)
    assert feature_width(backbone) == backbone.eval()(torch.zeros(1, 3, 32, 32)).shape[1] == 1024


def test_computing_arguments_uses_no_random_numbers():
    before = torch.get_rng_state()
    timm_arguments(BackboneConfig("swin_small_patch4_window7_224"), 64)
    timm_arguments(BackboneConfig("resnet34", width=2.0), 64)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_the_arguments_are_all_that_timm_needs(name):
    config = BackboneConfig(name, drop_path=0.1)
    assert is_plain_timm(config)
    ours = build_backbone(config, 96)
    theirs = timm.create_model(name, **timm_arguments(config, 96))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig("resnet5"), "did you mean resnet50"),
        (BackboneConfig("hf-hub:timm/resnet18"), "no backbone hf-hub"),
        (BackboneConfig("vit_tiny_patch16_224", stem="small"), "for ResNets"),
        (BackboneConfig("convnext_atto", width=2.0), "for ResNets"),
        (BackboneConfig("resnet18", width=0.3), "multiple of 1/32"),
        (BackboneConfig("resnet18", width=0.0), "multiple of 1/32"),
        (BackboneConfig("resnet50d", width=2.0), "one stem convolution"),
        (BackboneConfig("resnet18", channels=0), "at least 1"),
        (BackboneConfig("resnet18", drop_path=1.0), "below 1"),
        (BackboneConfig("vgg11", drop_path=0.1), "takes no drop_path"),
        (BackboneConfig("resnet18", mlp_norm="batch"), "mlp_norm = batch is for Swins and ViTs, not resnet18"),
        (BackboneConfig("convnext_atto", mlp_norm="batch"), "set backbone.mlp_norm to layer"),
        (BackboneConfig("resnet18.no_such_tag"), "no_such_tag"),
    ],
    ids=lambda value: value.name if isinstance(value, BackboneConfig) else "",
)
def test_what_cannot_be_built_is_refused_in_one_line(config, message):
    with pytest.raises(BadConfig, match=message) as caught:
        build_backbone(config, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "use"), [("vit_tiny_patch16_224", 40, "32 or 48"), ("convnext_atto", 16, "32")]
)
def test_a_view_that_does_not_fit_is_refused_in_one_line(name, size, use):
    config = BackboneConfig(name)
    backbone = build_backbone(config, 64)
    check_view_sizes(backbone, config, [64, 32])
    with pytest.raises(BadConfig, match=f"cannot take images of {size} pixels .*; use {use}$") as caught:
        check_view_sizes(backbone, config, [64, size])
    assert "\n" not in str(caught.value)
    assert backbone.training


def test_checking_sizes_changes_nothing_in_the_network():
    config = BackboneConfig("resnet18", width=0.25)
    backbone = build_backbone(config, 32)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    check_view_sizes(backbone, config, [32, 16])
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
