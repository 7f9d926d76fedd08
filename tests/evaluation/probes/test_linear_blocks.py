from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.source import Subset
from coterie.errors import BadConfig
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes.linear_blocks import linear_blocks
from coterie.evaluation.probes.recipe import PLACES205
from coterie.models.block_features import BlockFeatures
from tests.evaluation.probes.test_supervised import Recorder


def test_the_maps_of_a_resnet50_are_pooled_as_published() -> None:
    """Goyal et al. 2019: 64 x 12 x 12, 256 x 6 x 6, 512 x 4 x 4, 1024 x 3 x 3, 2048 x 2 x 2."""
    with torch.device("meta"):
        network = timm.create_model("resnet50", num_classes=0).eval()
    found = BlockFeatures(network, 3, 224)
    assert found.sides == (12, 6, 4, 3, 2)
    assert found.widths == (9216, 9216, 8192, 9216, 8192)
    assert found.names == ("act1", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=0).eval()


def test_blocks_are_the_networks_own_maps(network: nn.Module) -> None:
    found = BlockFeatures(network, 3, 32)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        maps = network.forward_intermediates(images, intermediates_only=True)
        pooled = [F.adaptive_avg_pool2d(each, side).flatten(1) for each, side in zip(maps, found.sides, strict=True)]
        torch.testing.assert_close(found(images), torch.cat(pooled, dim=1))
        found.blocks = [1, 3]
        torch.testing.assert_close(found(images), torch.cat([pooled[1], pooled[3]], dim=1))
    assert found.parts(10, 10**9) == [[0, 1, 2, 3, 4]]
    assert found.parts(10, 1) == [[0], [1], [2], [3], [4]]


def test_blocks_of_a_vit_are_its_patch_tokens() -> None:
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    found = BlockFeatures(network, 3, 224)
    assert len(found.names) == 12
    assert found.sides == (6,) * 12
    assert found.widths == (192 * 36,) * 12


def test_what_has_no_blocks_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"^linear_blocks: this Sequential does not give[^\n]*$"):
        BlockFeatures(nn.Sequential(nn.Conv2d(3, 4, 3)), 3, 32)


def test_every_block_gets_a_classifier(network: nn.Module) -> None:
    """Classes differ in brightness, which the first block keeps; one pass or five give the same figures."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(60) % 2).numpy()
    pixels = (
        30
        + 150 * torch.from_numpy(labels)[:, None, None, None]
        + torch.randint(0, 40, (60, 32, 32, 3), generator=generator)
    )
    images = Arrays(pixels.to(torch.uint8).numpy())
    rows = torch.arange(60).numpy()
    pair = LabeledPair(*(Subset(images, part, labels[part], ("dark", "bright")) for part in (rows[:40], rows[40:])))
    look, logger = Preprocessing(32, 3, (0.5,) * 3, (0.5,) * 3), Recorder()
    recipe = replace(PLACES205, epochs=4, batch_size=8)  # of few images as it is
    one = linear_blocks(network, pair, look, recipe=recipe, runtime=Runtime(logger=logger))
    assert list(one) == ["act1_top1", "layer1_top1", "layer2_top1", "layer3_top1", "layer4_top1"]
    assert one["act1_top1"] == 100
    assert one == linear_blocks(network, pair, look, recipe=recipe, most_bytes=1)
