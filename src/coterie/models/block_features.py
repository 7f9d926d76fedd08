"""The features of every block of a network, pooled to about as many numbers each."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import BadConfig, first_cause
from coterie.models.own_backbone import users_module

MOST_FEATURES = 9216
"""Numbers of a block at most: Goyal et al. 2019 (arXiv 1905.01235) pool the maps of a ResNet-50 to 64 x 12 x 12, 256 x 6 x 6,
512 x 4 x 4, 1024 x 3 x 3 and 2048 x 2 x 2."""


@final
class BlockFeatures(nn.Module):
    """The maps of some blocks, averaged over squares and laid out side by side.

    Blocks are those of timm's ``forward_intermediates``: of a ResNet the stem and its four stages, of a ViT each block without
    class and register tokens and before the last norm, of a Swin its stages.

    Attributes:
        names: of all blocks, from the first on.
        widths: numbers of each block.
        sides: of each block's pooled map.
        blocks: which of them are computed.
    """

    def __init__(self, network: nn.Module, channels: int, size: int) -> None:
        """Find out which blocks there are from one blank image; all of them are computed at first.

        Args:
            network: of timm, in evaluation mode; shared, not copied.
            channels: of the images.
            size: height and width of the images, in pixels.

        Raises:
            BadConfig: the network does not give the maps of its blocks.
        """
        super().__init__()
        self.network = network
        module = users_module(network)
        kind = type(module).__name__
        if not hasattr(module, "forward_intermediates"):
            raise BadConfig(
                f"linear_blocks: this {kind} does not give the features of its blocks: use a network of timm"
            )
        like = next(network.parameters())
        blank = torch.zeros(1, channels, size, size, dtype=like.dtype, device=like.device)
        try:
            with torch.inference_mode():
                maps = self._maps(blank, None)
        except Exception as error:  # any, as in each network's own code
            raise BadConfig(
                f"linear_blocks: this {kind} does not give the features of its blocks ({first_cause(error)})"
            ) from error
        self.sides = tuple(max(1, min(math.isqrt(MOST_FEATURES // each.shape[1]), *each.shape[2:])) for each in maps)
        self.widths = tuple(each.shape[1] * side**2 for each, side in zip(maps, self.sides, strict=True))
        info = getattr(module, "feature_info", None)
        said = [str(each.get("module", "")) for each in info] if isinstance(info, list) else []
        unique = len(said) == len(maps) == len(set(said)) and all(said)
        self.names = tuple(said) if unique else tuple(f"block{number}" for number in range(1, len(maps) + 1))
        self.blocks: list[int] = list(range(len(maps)))
        self.eval()

    def parts(self, images: int, most_bytes: int) -> list[list[int]]:
        """Divide the blocks into runs whose features of so many images fit into some memory; a block at least.

        Args:
            images: how many are kept.
            most_bytes: of their features in float32.
        """
        found: list[list[int]] = []
        used = 0
        for block, width in enumerate(self.widths):
            wanted = 4 * images * width
            if not found or used + wanted > most_bytes:
                found.append([])
                used = 0
            found[-1].append(block)
            used += wanted
        return found

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Turn images into the features of ``blocks``, one after another."""
        maps = self._maps(images, self.blocks)
        pooled = (F.adaptive_avg_pool2d(each, self.sides[block]) for each, block in zip(maps, self.blocks, strict=True))
        return torch.cat([each.flatten(1) for each in pooled], dim=1)

    def _maps(self, images: Tensor, blocks: Sequence[int] | None) -> list[Tensor]:
        module = users_module(self.network)
        found: list[Tensor] = module.forward_intermediates(  # type: ignore[operator]
            images, indices=blocks, intermediates_only=True, output_fmt="NCHW", stop_early=True
        )
        return found
