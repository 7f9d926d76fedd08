"""The intermediate feature maps of a network of timm: which there are, found out from a blank image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coterie.errors import BadConfig, first_cause
from coterie.models.own_backbone import OwnBackbone, users_module

_BLANK = 128
"""Side in pixels of the blank image that says which maps a network has, at least; whole patches of a transformer."""
_USE = "use a ResNet, ConvNeXt, Swin or EfficientNet"


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


def find_maps(network: nn.Module, channels: int, what: str) -> tuple[Level, ...]:
    """All intermediate feature maps of a network; of a ViT, the patch tokens after each block.

    Args:
        network: of timm.
        channels: of its images.
        what: what needs them, such as "a detector", for the error.

    Raises:
        BadConfig: it has none.
    """
    module = users_module(network)
    name = type(module).__name__
    if isinstance(network, OwnBackbone) or not hasattr(module, "forward_intermediates"):
        raise BadConfig(f"{what} needs feature maps, and a {name} gives none: {_USE}")
    like, patch = next(module.parameters()), _patch(module)
    side = -(-_BLANK // patch) * patch
    blank = torch.zeros(1, channels, side, side, dtype=like.dtype, device=like.device)
    low = blank[:, :, : side // patch // 2 * patch]  # some networks take one size only
    training = module.training
    try:
        with torch.no_grad():
            maps: list[Tensor] = module.eval().forward_intermediates(blank, intermediates_only=True)  # type: ignore[operator]
            module.forward_intermediates(low, intermediates_only=True)  # type: ignore[operator]
    except Exception as error:  # any, as in each network's own code
        raise BadConfig(
            f"{what} needs feature maps of images of any size, and this {name} has none ({first_cause(error)})"
        ) from error
    finally:
        module.train(training)
    return tuple(Level(place, each.shape[1], side // each.shape[2]) for place, each in enumerate(maps))


def last_of_each_stride(maps: tuple[Level, ...]) -> tuple[Level, ...]:
    """The last map of each stride, the finest first."""
    return tuple({each.stride: each for each in maps}.values())


def find_levels(network: nn.Module, channels: int, least: int) -> tuple[Level, ...]:
    """The last feature map of each stride that a network has.

    Args:
        network: of timm.
        channels: of its images.
        least: the smallest stride that is used.

    Raises:
        BadConfig: it has no feature maps, or all of them have one stride, as those of a ViT.
    """
    last = last_of_each_stride(find_maps(network, channels, "a detector"))
    levels = tuple(each for each in last if each.stride >= least)
    if len(last) < 2 or not levels:
        strides = "/".join(str(each.stride) for each in last)
        raise BadConfig(
            f"a feature pyramid needs feature maps of several sizes, and those of a {type(users_module(network)).__name__} all "
            f"have one pixel for {strides} of the image: {_USE}"
        )
    return levels


def _patch(module: nn.Module) -> int:
    """The side in pixels of the patches of a transformer; 1 for other networks."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", 1)
    return int(patch[0] if isinstance(patch, tuple) else patch)
