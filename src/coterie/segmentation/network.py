"""Segmenters: a head over the feature maps of a MODEL, from images to the scores of each class at each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig
from coterie.models.feature_maps import Level, find_maps, last_of_each_stride
from coterie.models.own_backbone import users_module
from coterie.segmentation.heads import FcnHead, HeadKind, LinearHead, UperNetHead, resized

_LEAST_STRIDE = 4
"""Of the maps that are used, unless others are asked for."""
_VIT_MAPS = 4
"""Blocks of a network whose maps all have one size that UPerNet uses, evenly spread."""


@final
@dataclass(frozen=True)
class SegmenterSettings:
    """Everything by which a segmenter is built over a network.

    Attributes:
        head: ``linear``, ``fcn`` or ``upernet``.
        blocks: numbers of the intermediate maps of the network that the head sees; (): chosen by its kind.
        width: channels of ``fcn`` and ``upernet``.
        short_side: in pixels, to which the short side of an image is resized.
        longest: most pixels of the long side, whatever the short side is then.
    """

    head: HeadKind = "linear"
    blocks: tuple[int, ...] = ()
    width: int = 256
    short_side: int = 512
    longest: int = 2048


@final
class SegmentationNetwork(nn.Module):
    """Images to scores. Of a linear head the network below stays as it is, and in evaluation mode.

    Attributes:
        mean: of each channel, for the images of the network.
        std: likewise.
        network: the network; shared, not copied.
        frozen: whether it stays as it is.
        places: of its maps that the head sees.
        multiple: sides of images are padded to a multiple of this, so that a pixel of each map is over the same pixels of all
            finer ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, settings: SegmenterSettings, classes: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Build the head, initialized from torch's global generator.

        Args:
            network: of timm.
            settings: of the segmenter.
            classes: how many there are.
            mean: of each channel, for the images of the network.
            std: likewise.

        Raises:
            BadConfig: the network has no feature maps, or not those that are asked for.
        """
        super().__init__()
        self.network, self.frozen = network, settings.head == "linear"
        if settings.head == "fcn":
            dilate_last_stage(network)
        maps = find_maps(network, len(mean), "a segmenter")
        self.one_size = len({each.stride for each in maps}) == 1
        levels = _chosen(maps, settings, type(users_module(network)).__name__)
        self.places, self.multiple = [each.place for each in levels], max(each.stride for each in maps)
        self.head = _head(levels, settings, classes)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        network.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "SegmentationNetwork":
        """Training or evaluation mode; a network that stays as it is, is always in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Sequence[Float[Tensor, "c _ _"]]) -> Float[Tensor, "b k _ _"]:
        """Turn images in [0, 1], each of its own size, into scores of the size of the largest, rounded up to the multiple."""
        batch = self.padded(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = users_module(self.network).forward_intermediates(  # type: ignore[operator]
                batch, indices=self.places, norm=self.one_size, stop_early=True, intermediates_only=True
            )
        return resized(self.head(maps), batch.shape[2:])

    def padded(self, images: Sequence[Float[Tensor, "c _ _"]]) -> Float[Tensor, "b c _ _"]:
        """Normalized images, padded with the mean at the right and at the bottom."""
        height, width = (
            -(-max(each.shape[axis] for each in images) // self.multiple) * self.multiple for axis in (1, 2)
        )
        normal = [(each - self.mean) / self.std for each in images]
        return torch.stack([F.pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in normal])


def dilate_last_stage(network: nn.Module) -> None:
    """Let the last stage of a ResNet of stride 32 keep the size of its maps, by dilation, as in MoCo's protocol; others stay.

    Args:
        network: of timm; its weights stay as they are.
    """
    stage, info = getattr(network, "layer4", None), getattr(network, "feature_info", None)
    if not isinstance(stage, nn.Sequential) or not isinstance(info, list) or info[-1].get("reduction") != 32:
        return
    for module in stage.modules():
        if isinstance(module, nn.AvgPool2d):
            module.stride, module.kernel_size = 1, 1
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)


def _chosen(maps: tuple[Level, ...], settings: SegmenterSettings, name: str) -> tuple[Level, ...]:
    """The maps that the head sees.

    Raises:
        BadConfig: one that is asked for is not there.
    """
    for place in settings.blocks:
        if not 0 <= place < len(maps):
            strides = ", ".join(str(each.stride) for each in maps)
            raise BadConfig(f"--blocks names map {place}: this {name} has {len(maps)}, from 0 on, of strides {strides}")
    if settings.head == "fcn":
        if len(settings.blocks) > 1:
            raise BadConfig(f"--blocks names {len(settings.blocks)} maps: --head fcn sees one")
        return maps[settings.blocks[0] : settings.blocks[0] + 1] if settings.blocks else maps[-1:]
    if settings.blocks:
        chosen = tuple(maps[place] for place in sorted(set(settings.blocks)))
        if settings.head == "upernet" and len({each.stride for each in chosen}) == 1 and len(chosen) != _VIT_MAPS:
            raise BadConfig(
                f"--blocks names {len(chosen)} maps of one size: --head upernet sees {_VIT_MAPS}, or several sizes"
            )
        return chosen
    last = last_of_each_stride(maps)
    if len(last) > 1:
        return tuple(each for each in last if each.stride >= _LEAST_STRIDE) or last
    if settings.head == "upernet":
        places = [round((each + 1) * len(maps) / _VIT_MAPS) - 1 for each in range(_VIT_MAPS)]
        return tuple(maps[max(0, place)] for place in places)
    return maps[-1:]


def _head(levels: tuple[Level, ...], settings: SegmenterSettings, classes: int) -> nn.Module:
    if settings.head == "linear":
        return LinearHead(levels, classes)
    if settings.head == "fcn":
        return FcnHead(levels, settings.width, classes)
    return UperNetHead(levels, settings.width, classes)
