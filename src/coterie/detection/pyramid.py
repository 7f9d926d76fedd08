"""A feature pyramid over the feature maps of a network of timm (Lin et al. 2017)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelP6P7

from coterie.models.feature_maps import Level
from coterie.models.own_backbone import users_module


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
