"""Batch norm over all tokens in transformers, before each MLP."""

from typing import final

from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from coterie.errors import BadConfig


@final
class TokenBatchNorm(nn.Module):
    """Batch norm of each channel over all tokens of all images, as in SMoG's Swin-T."""

    def __init__(self, width: int) -> None:
        """Create the batch norm.

        Args:
            width: number of channels C.
        """
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(width)

    def forward(self, tokens: Float[Tensor, "*b t c"]) -> Float[Tensor, "*b t c"]:
        """Normalize tokens.

        Args:
            tokens: T tokens per image or window; the C channels are the last dimension.

        Returns:
            The normalized tokens, of the same shape.
        """
        outputs: Tensor = self.batch_norm(tokens.flatten(0, -2))
        return outputs.view(tokens.shape)


def replace_mlp_norms(network: nn.Module, name: str) -> None:
    """Replace the layer norm before each MLP of a timm Swin or ViT by a batch norm over all tokens.

    As in SMoG's Swin-T (arXiv 2207.06167, released code) and in MoBY (Xie et al. 2021, arXiv 2105.04553).

    Args:
        network: a network of timm, changed in place.
        name: its timm name, for the error message.

    Raises:
        BadConfig: the network has no such layer norms.
    """
    blocks = [module for module in network.modules() if isinstance(module, SwinTransformerBlock | Block)]
    if not blocks:
        raise BadConfig(f"backbone.mlp_norm = batch is for Swins and ViTs, not {name}: set backbone.mlp_norm to layer")
    for block in blocks:
        block.norm2 = TokenBatchNorm(block.norm2.normalized_shape[0])
