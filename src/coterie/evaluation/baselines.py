"""What probes are compared with: raw pixels, and the same network without training."""

import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.exporting.model import Model

PIXEL_SIDE = 32
"""Raw pixels are those of the image at this size: 3,072 numbers in color, about as many as a network has features."""


def raw_pixels(preprocessing: Preprocessing) -> tuple[nn.Module, Preprocessing]:
    """The image itself as an embedding: what the network sees, at 32 x 32 pixels or less.

    Args:
        preprocessing: of the network.

    Returns:
        What flattens images, and how they are prepared for it.
    """
    return nn.Flatten(), preprocessing.at_most(PIXEL_SIDE)


def untrained(model: Model, seed: int, device: torch.device | str) -> nn.Module:
    """The network of a model with the random weights of a seed, in evaluation mode; no generator is touched.

    Args:
        model: the model.
        seed: for the weights.
        device: of the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.untrained().eval().to(device)
