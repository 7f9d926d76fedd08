"""Heads over the feature maps of networks, and schedules."""

import pytest
import torch

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.segmentation.network import SegmentationNetwork, SegmenterSettings
from coterie.segmentation.schedules import PUBLISHED, SegmentationSchedule, rate_at
from tests.segmentation.conftest import TINY

VIT = BackboneConfig("vit_tiny_patch16_224")


def built(config, head="linear", blocks=()):
    torch.manual_seed(0)
    return SegmentationNetwork(
        build_backbone(config, 64), SegmenterSettings(head, blocks, width=8), 3, (0.5,) * 3, (0.2,) * 3
    )


@pytest.mark.parametrize(
    ("config", "head", "places"),
    [
        (TINY, "linear", [1, 2, 3, 4]),
        (TINY, "fcn", [4]),
        (TINY, "upernet", [1, 2, 3, 4]),
        (VIT, "linear", [11]),
        (VIT, "upernet", [2, 5, 8, 11]),
        pytest.param(VIT, "fcn", [11], marks=pytest.mark.slow),
        pytest.param(BackboneConfig("convnext_atto"), "upernet", [0, 1, 2, 3], marks=pytest.mark.slow),
        pytest.param(BackboneConfig("swin_tiny_patch4_window7_224"), "fcn", [3], marks=pytest.mark.slow),
        pytest.param(BackboneConfig("vit_small_patch14_dinov2"), "linear", [11], marks=pytest.mark.slow),
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_heads_learn_over_any_network(config, head, places):
    """Images of several sizes, which no patch divides, and alone in their batch."""
    segmenter = built(config, head).train()
    assert segmenter.places == places
    scores = segmenter([torch.rand(3, 40, 60), torch.rand(3, 50, 30)])
    side = segmenter.multiple
    assert scores.shape == (2, 3, -(-50 // side) * side, -(-60 // side) * side)
    segmenter([torch.rand(3, 64, 64)]).square().mean().backward()
    trained = {name.partition(".")[0] for name, each in segmenter.named_parameters() if each.grad is not None}
    assert trained == ({"head"} if head == "linear" else {"head", "network"})
    assert segmenter.network.training == (head != "linear")


def test_what_is_beyond_an_image_is_as_its_mean():
    """Padding changes neither the normalized pixels nor what a linear layer sees far from the edge."""
    segmenter = built(TINY).eval()
    batch = segmenter.padded([torch.full((3, 20, 40), 0.7), torch.full((3, 33, 10), 0.5)])
    assert batch.shape == (2, 3, 64, 64)
    assert torch.allclose(batch[0, :, :20, :40], torch.tensor(1.0))
    assert batch[0, :, 20:].abs().sum() + batch[0, :, :, 40:].abs().sum() + batch[1].abs().sum() == 0


def test_the_last_stage_is_dilated_for_an_fcn():
    """Stride 16 in place of 32, with the same weights, as in MoCo's protocol."""
    torch.manual_seed(0)
    fcn, other = built(TINY, "fcn"), built(TINY, "linear", (4,))
    assert (fcn.multiple, other.multiple) == (16, 32)
    assert fcn.network.state_dict().keys() == other.network.state_dict().keys()
    assert [each.dilation for each in fcn.network.layer4.modules() if getattr(each, "kernel_size", 0) == (3, 3)] == [
        (2, 2)
    ] * 4


@pytest.mark.parametrize(
    ("config", "head", "blocks", "said"),
    [
        (TINY, "linear", (5,), "names map 5: this ResNet has 5, from 0 on, of strides 2, 4, 8, 16, 32"),
        (TINY, "fcn", (1, 2), "--head fcn sees one"),
        (TINY, "upernet", (3,), "--blocks names 1 maps of one size: --head upernet sees 4, or several sizes"),
        (BackboneConfig("mixer_s32_224"), "linear", (), "feature maps of images of any size"),
    ],
    ids=str,
)
def test_networks_and_maps_that_are_not_there(config, head, blocks, said):
    with pytest.raises(BadConfig, match=r"^[^\n]+$") as caught:
        built(config, head, blocks)
    assert said in str(caught.value)


def test_published_values():
    """The configuration of DINOv2's linear heads; MoCo's appendix; mmsegmentation's schedule of 160,000 steps."""
    linear, voc, cityscapes, upernet = (
        PUBLISHED[name] for name in ("linear_ade20k", "fcn_voc", "fcn_cityscapes", "upernet_ade20k")
    )
    assert (linear.optimizer, linear.learning_rate, linear.weight_decay) == ("adamw", 1e-3, 1e-4)
    assert (linear.steps, linear.batch_size, linear.warmup, linear.power) == (40_000, 16, 1500, 1.0)
    assert (voc.steps, voc.learning_rate, voc.drops, voc.crop) == (30_000, 0.003, (0.7, 0.9), (513, 513))
    assert (cityscapes.steps, cityscapes.learning_rate, cityscapes.crop) == (90_000, 0.01, (769, 769))
    assert (upernet.steps, upernet.learning_rate, upernet.weight_decay, upernet.width) == (160_000, 0.01, 5e-4, 512)
    assert all(each.scales == (0.5, 2.0) and each.batch_size == 16 for each in PUBLISHED.values())


def test_the_learning_rate_falls_as_a_power_or_in_drops():
    falling = SegmentationSchedule("linear", learning_rate=1.0, warmup=10, warmup_factor=0.1, power=1.0)
    assert rate_at(falling, 0, 100) == pytest.approx(0.1)
    assert [rate_at(falling, step, 100) for step in (10, 50, 99)] == pytest.approx([0.9, 0.5, 0.01])
    least = SegmentationSchedule("upernet", learning_rate=1.0, warmup=0, power=0.9, least_rate=0.2)
    assert rate_at(least, 50, 100) == pytest.approx(0.2 + 0.8 * 0.5**0.9)
    dropping = SegmentationSchedule("fcn", learning_rate=1.0, warmup=0, drops=(0.7, 0.9))
    assert [rate_at(dropping, step, 10) for step in (6, 7, 9)] == pytest.approx([1, 0.1, 0.01])
