"""Patch features of networks of every layout: beside timm's own, and beside the embedding that they are pooled into."""

import pytest
import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.inference import inference_copy
from coterie.models.own_backbone import OwnBackbone
from coterie.models.patch_features import PatchFeatures

SIZE, IMAGES = 64, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name), SIZE).eval()


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet10t", 2),
        ("test_vit", 4),  # a class token
        ("test_vit2", 4),  # and registers
        ("swin_tiny_patch4_window7_224", 2),  # channels last
        ("test_convnext", 2),
    ],
)
@torch.inference_mode()
def test_patches_and_map_are_those_of_timm(name: str, side: int) -> None:
    backbone = network(name)
    patches, mapped = (PatchFeatures(backbone, layout, 3, SIZE) for layout in ("patch", "map"))
    _, (expected,) = backbone.forward_intermediates(IMAGES, indices=1, norm=True)
    width = backbone.num_features
    assert (patches.shape, mapped.shape) == ((side**2, width), (width, side, side))
    assert torch.equal(mapped(IMAGES), expected)
    rows = patches(IMAGES)
    assert rows.shape == (2, side**2, width)
    assert torch.equal(rows[:, side + 1], expected[:, :, 1, 1])  # line by line


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0"])
@torch.inference_mode()
def test_embeddings_are_the_average_where_the_network_averages(name: str) -> None:
    backbone = network(name)
    patches = PatchFeatures(backbone, "patch", 3, SIZE)
    torch.testing.assert_close(patches(IMAGES).mean(dim=1), backbone(IMAGES))
    folded = inference_copy(patches)
    assert (folded is patches) == (name.startswith("swin"))  # batch norms are folded as they are for embeddings
    torch.testing.assert_close(folded(IMAGES), patches(IMAGES), rtol=1e-3, atol=1e-4)


class Own(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2), *layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@torch.inference_mode()
def test_the_map_of_a_network_of_ones_own() -> None:
    own = OwnBackbone(Own(), 3, SIZE).eval()
    mapped = PatchFeatures(own, "map", 3, SIZE)
    assert mapped.shape == (5, 31, 31)
    assert torch.equal(mapped(IMAGES), own.network(IMAGES))
    assert inference_copy(mapped) is mapped


@pytest.mark.parametrize(
    ("backbone", "layout", "said"),
    [
        (lambda: OwnBackbone(Own(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3, SIZE), "map", r"Own returns \[1, 5\]"),
        (lambda: nn.Linear(3, 3), "patch", "Linear has no patch features"),
        (lambda: Oblong(), "map", "patches of this Oblong are no square: use --features patch"),
    ],
)
def test_what_has_no_patches_is_refused_in_one_line(backbone, layout: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said) as caught:
        PatchFeatures(backbone(), layout, 3, SIZE)
    assert "\n" not in str(caught.value)


class Oblong(nn.Linear):
    """Gives six patches."""

    def __init__(self) -> None:
        super().__init__(64, 5)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self(images[:, 0, :6])
