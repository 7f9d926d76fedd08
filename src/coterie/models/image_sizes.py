"""Which sizes of images a network takes."""

import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width

_FARTHEST = 64
"""Pixels; nearest sizes that fit are looked for so far away."""


def check_image_size(network: nn.Module, config: BackboneConfig, size: int) -> None:
    """Check that a network turns images of a size into one vector each, by encoding a blank one.

    Args:
        network: in evaluation mode.
        config: its settings.
        size: height and width in pixels.

    Raises:
        BadConfig: it does not; the line names the nearest sizes that it takes.
    """
    like = next(network.parameters())
    blank = torch.zeros(1, config.channels, size, size, dtype=like.dtype, device=like.device)
    try:
        with torch.inference_mode():
            features = network(blank)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise refused_size(config, size) from error
    if features.shape != (1, feature_width(network)):
        raise BadConfig(
            f"{config.name} returns {tuple(features.shape)} for one image instead of a feature vector: choose another backbone"
        )


def refused_size(config: BackboneConfig, size: int) -> BadConfig:
    """The error for a size that a network does not take, with the nearest sizes that it takes."""
    below = next((each for each in range(size - 1, max(0, size - _FARTHEST), -1) if _takes(config, each)), None)
    above = next((each for each in range(size + 1, size + _FARTHEST) if _takes(config, each)), None)
    near = [str(each) for each in (below, above) if each is not None]
    which = "the nearest sizes that it takes are" if len(near) == 2 else "the nearest that it takes is"
    remedy = f"{which} {' and '.join(near)}" if near else "give another --size"
    return BadConfig(f"{config.name} does not take images of {size} pixels: {remedy}")


def _takes(config: BackboneConfig, size: int) -> bool:
    """Whether a network laid out for this size takes it; on the meta device, where that costs no arithmetic."""
    try:
        with torch.device("meta"), torch.inference_mode():
            network = build_backbone(config, size).eval()
            features = network(torch.zeros(1, config.channels, size, size))
    except (BadConfig, NotImplementedError, RuntimeError, AssertionError, ValueError):
        return False
    return tuple(features.shape) == (1, feature_width(network))
