"""The features of each patch of an image, before a network pools them into one embedding."""

import math
from typing import Any, Literal, final

import torch
from torch import nn

from coterie.errors import BadConfig, first_cause
from coterie.models.own_backbone import OwnBackbone, users_module

Layout = Literal["patch", "map"]
"""``patch``: a row of features for each patch, ``[B, P, F]``, line by line; ``map``: the same as an image, ``[B, F, h, w]``."""


@final
class PatchFeatures(nn.Module):
    """What a network computes last before it pools: of a ViT its normalized patch tokens, of others their last feature map.

    Class and register tokens are left out. Where the embedding is the plain average of a map, as of ResNets and Swins, it is
    the average of these; :func:`coterie.load_backbone` and timm's ``forward_intermediates`` give those of earlier layers.

    Attributes:
        backbone: the network.
        shape: of the features of one image: ``[P, F]`` or ``[F, h, w]``.
    """

    def __init__(self, backbone: nn.Module, layout: Layout, channels: int, size: int) -> None:
        """Find out the shape of the features from one blank image.

        Args:
            backbone: a network of timm or of the user's own, in evaluation mode; shared, not copied.
            layout: ``patch`` or ``map``.
            channels: of the images.
            size: height and width of the images, in pixels.

        Raises:
            BadConfig: the network has no features of patches.
        """
        super().__init__()
        self.backbone, self.layout = backbone, layout
        self.nhwc = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        self.prefix_tokens = int(getattr(backbone, "num_prefix_tokens", 0))
        like = next(backbone.parameters())
        blank = torch.zeros(1, channels, size, size, dtype=like.dtype, device=like.device)
        name = type(users_module(backbone)).__name__
        try:
            with torch.inference_mode():
                found = self._last(blank)
        except Exception as error:  # any, as in a user's own forward
            raise BadConfig(f"--features {layout}: this {name} has no patch features ({first_cause(error)})") from error
        if found.ndim not in (3, 4):
            raise BadConfig(
                f"--features {layout}: this {name} returns {list(found.shape)} for one image, without patches: let it return a "
                "map [B, F, h, w]"
            )
        self.tokens = found.ndim == 3
        self.side = math.isqrt(found.shape[1] - self.prefix_tokens)
        if self.tokens and layout == "map" and self.side**2 + self.prefix_tokens != found.shape[1]:
            raise BadConfig(f"--features map: the patches of this {name} are no square: use --features patch")
        self.shape = tuple(self._arranged(found).shape[1:])
        self.eval()

    def forward(self, images: Any) -> Any:  # any, as torch.fx follows it with a proxy
        """Turn images ``[b, c, H, W]`` into features ``[b, P, F]`` or ``[b, F, h, w]``."""
        return self._arranged(self._last(images))

    def _last(self, images: Any) -> Any:
        if isinstance(self.backbone, OwnBackbone):
            images = images if self.backbone.channels_last else images.contiguous()
            return self.backbone.network(images)
        return self.backbone.forward_features(images)  # type: ignore[operator]

    def _arranged(self, found: Any) -> Any:
        """Tokens ``[b, prefix + P, F]``, or a map in either memory layout, as the layout of this module."""
        if self.tokens:
            patches = found[:, self.prefix_tokens :]
            return patches if self.layout == "patch" else patches.transpose(1, 2).unflatten(2, (self.side, self.side))
        if self.nhwc:
            return found.flatten(1, 2) if self.layout == "patch" else found.permute(0, 3, 1, 2)
        return found.flatten(2).transpose(1, 2) if self.layout == "patch" else found
