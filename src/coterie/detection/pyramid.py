"""A feature pyramid over the feature maps of a network of timm (Lin et al. 2017)."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7

from coterie.errors import BadConfig, first_cause
from coterie.models.own_backbone import users_module

_BLANK = 128
"""Side in pixels of the blank image that says which maps a network has."""


@dataclass(frozen=True)
class Level:
    """A feature map of a network.

    Attributes:
        place: its number among the intermediate maps of the network.
        channels: its channels.
        stride: pixels of the image per pixel of the map.
    """

    place: int
    channels: int
    stride: int


def find_levels(network: nn.Module, channels: int, least: int) -> tuple[Level, ...]:
    """The last feature map of each stride that a network has, found out from a blank image.

    Args:
        network: of timm.
        channels: of its images.
        least: the smallest stride that is used.

    Raises:
        BadConfig: it has no feature maps, or all of them have one stride, as those of a ViT.
    """
    module = users_module(network)
    name = type(module).__name__
    if not hasattr(module, "forward_intermediates"):
        raise BadConfig(
            f"a detector needs feature maps, and a {name} gives none: use a ResNet, ConvNeXt, Swin or EfficientNet"
        )
    like = next(module.parameters())
    blank = torch.zeros(1, channels, _BLANK, _BLANK, dtype=like.dtype, device=like.device)
    training = module.training
    try:
        with torch.no_grad():
            maps: list[Tensor] = module.eval().forward_intermediates(blank, intermediates_only=True)  # type: ignore[operator]
    except Exception as error:  # any, as in each network's own code
        raise BadConfig(
            f"a detector needs feature maps of images of any size, and this {name} has none ({first_cause(error)})"
        ) from error
    finally:
        module.train(training)
    last = {
        _BLANK // each.shape[2]: Level(place, each.shape[1], _BLANK // each.shape[2]) for place, each in enumerate(maps)
    }
    levels = tuple(each for each in last.values() if each.stride >= least)
    if len(last) < 2 or not levels:
        raise BadConfig(
            f"a feature pyramid needs feature maps of several sizes, and those of a {name} all have one pixel for "
            f"{'/'.join(map(str, last))} of the image: use a ResNet, ConvNeXt, Swin or EfficientNet"
        )
    return levels


@final
class Pyramid(nn.Module):
    """Images ``[b, c, H, W]`` to maps of one width, the finest first: those of the network, and coarser ones above them.

    Attributes:
        network: the network; shared, not copied.
        out_channels: the width, as torchvision's detectors ask for it.
        strides: pixels of the image per pixel of each map.
    """

    def __init__(self, network: nn.Module, levels: Sequence[Level], width: int, top: int | None) -> None:
        """Build the pyramid.

        Args:
            network: of timm.
            levels: its maps that are used.
            width: channels of each map of the pyramid.
            top: the stride that maps reach by subsampling the last one, as in Faster R-CNN; None: two more maps by
                convolutions, as in RetinaNet (Lin et al. 2017 b).
        """
        super().__init__()
        self.network, self.out_channels = network, width
        self.places = [each.place for each in levels]
        self.strides = [each.stride for each in levels]
        above: ExtraFPNBlock = LastLevelP6P7(width, width)
        more = 2
        if top is not None:
            more = 0
            while self.strides[-1] << more < top:
                more += 1
            above = _Subsampled(more)
        self.strides += [self.strides[-1] << number for number in range(1, more + 1)]
        self.pyramid = FeaturePyramidNetwork([each.channels for each in levels], width, above)

    def forward(self, images: Float[Tensor, "b c _ _"]) -> "OrderedDict[str, Tensor]":
        """Turn images into maps."""
        maps = users_module(self.network).forward_intermediates(images, indices=self.places, intermediates_only=True)  # type: ignore[operator]
        found: OrderedDict[str, Tensor] = self.pyramid(
            OrderedDict((str(place), each) for place, each in enumerate(maps))
        )
        return found


@final
class _Subsampled(ExtraFPNBlock):  # type: ignore[misc]
    """Every other pixel of the map below, as often as it takes; torchvision's does it once."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, results: list[Tensor], _: Any, names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Add the maps."""
        for number in range(self.count):
            results.append(F.max_pool2d(results[-1], 1, 2))
            names.append(f"above{number}")
        return results, names
