"""Heads that turn feature maps into a score of each class at each place: a linear layer, an FCN, and one like UPerNet's."""

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

from coterie.models.feature_maps import Level

HeadKind = Literal["linear", "fcn", "upernet"]
FCN_DILATION = 6
"""Of the two convolutions of the FCN, as in MoCo's protocol (He et al. 2020, appendix)."""
POOLED_SIDES = (1, 2, 3, 6)
"""Of the maps that pyramid pooling averages to (Zhao et al. 2017)."""


def resized(maps: Float[Tensor, "b k _ _"], size: Sequence[int]) -> Float[Tensor, "b k _ _"]:
    """Maps resized bilinearly to a height and width."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


@final
class LinearHead(nn.Module):
    """Batch norm and a linear layer at each place, as DINOv2 publishes it (Oquab et al. 2023, section 7.4).

    Several maps are resized to the finest and put side by side.
    """

    def __init__(self, levels: Sequence[Level], classes: int) -> None:
        """Build the head for maps of these levels."""
        super().__init__()
        width = sum(each.channels for each in levels)
        self.norm, self.classifier = nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b k _ _"]:
        """Turn the maps of images into scores."""
        finest = max((each.shape[2:] for each in maps), key=lambda size: size[0])
        scores: Tensor = self.classifier(self.norm(torch.cat([resized(each, finest) for each in maps], dim=1)))
        return scores


@final
class FcnHead(nn.Module):
    """Two convolutions and a linear layer over the last map (Long et al. 2015), with the dilation of MoCo's protocol."""

    def __init__(self, levels: Sequence[Level], width: int, classes: int) -> None:
        """Build the head for the last of these levels."""
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(levels[-1].channels, width, 3, FCN_DILATION), _convolution(width, width, 3, FCN_DILATION)
        )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b k _ _"]:
        """Turn the maps of images into scores."""
        scores: Tensor = self.classifier(self.convolutions(maps[-1]))
        return scores


@final
class UperNetHead(nn.Module):
    """Pyramid pooling over the last map, a feature pyramid, and all of its maps side by side (Xiao et al. 2018).

    Maps of a single size, as a ViT's, are first resized to 4, 2, 1 and 1/2 times their size, as if they were a network's.
    """

    def __init__(self, levels: Sequence[Level], width: int, classes: int) -> None:
        """Build the head for maps of these levels, the finest first."""
        super().__init__()
        self.one_size = len({each.stride for each in levels}) == 1
        channels = [each.channels for each in levels]
        self.pooled = nn.ModuleList(nn.Sequential(*_of_pooled(channels[-1], width)) for _ in POOLED_SIDES)
        self.bottleneck = _convolution(channels[-1] + len(POOLED_SIDES) * width, width, 3)
        self.pyramid = FeaturePyramidNetwork([*channels[:-1], width], width, norm_layer=nn.BatchNorm2d)
        self.fused = _convolution(len(levels) * width, width, 3)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b k _ _"]:
        """Turn the maps of images into scores."""
        if self.one_size:
            maps = _as_a_pyramid(maps)
        last, size = maps[-1], maps[-1].shape[2:]
        averages = [F.adaptive_avg_pool2d(last, side) for side in POOLED_SIDES]
        around = [resized(layers(each), size) for layers, each in zip(self.pooled, averages, strict=True)]
        top = self.bottleneck(torch.cat([last, *around], dim=1))
        found = self.pyramid({str(place): each for place, each in enumerate([*maps[:-1], top])})
        finest = maps[0].shape[2:]
        scores: Tensor = self.classifier(
            self.fused(torch.cat([resized(each, finest) for each in found.values()], dim=1))
        )
        return scores


def _convolution(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


def _of_pooled(channels: int, width: int) -> tuple[nn.Module, ...]:
    """A norm of each image alone: a map of one pixel of one image has no deviation that a batch norm could divide by."""
    return nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(1, width), nn.ReLU()


def _as_a_pyramid(maps: Sequence[Tensor]) -> list[Tensor]:
    """Four maps of one size at 4, 2, 1 and 1/2 times it."""
    height, width = maps[0].shape[2:]
    sizes = [(round(height * scale), round(width * scale)) for scale in (4, 2, 1)]
    larger = [resized(each, size) for each, size in zip(maps[:-1], sizes, strict=True)]
    return [*larger, F.avg_pool2d(maps[-1], 2, ceil_mode=True)]
