"""Batch norm in transformers: over all tokens, before each MLP."""

from jaxtyping import Float
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from coterie.errors import BadConfig


class TokenBatchNorm(nn.Module):
    """Normalize each channel over all tokens of all images."""

    def __init__(self, width: int) -> None:
        """Own the batch norm of ``width`` channels."""
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(width)

    def forward(self, tokens: Float[Tensor, "*b t c"]) -> Float[Tensor, "*b t c"]:
        """Normalize ``tokens``, whose channels come last."""
        outputs: Tensor = self.batch_norm(tokens.flatten(0, -2))
        return outputs.view(tokens.shape)


def replace_mlp_norms(network: nn.Module, name: str) -> None:
    """Replace the layer norm before each MLP of a Swin or ViT of timm by a batch norm over all tokens.

    So do SMoG's Swin-T (https://arxiv.org/abs/2207.06167, as released) and MoBY before it
    (https://arxiv.org/abs/2105.04553).

    Raises:
        BadConfig: the network, called ``name``, has no such layer norms.
    """
    blocks = [module for module in network.modules() if isinstance(module, SwinTransformerBlock | Block)]
    if not blocks:
        raise BadConfig(f"backbone.mlp_norm = batch is for Swins and ViTs, not {name}: set backbone.mlp_norm to layer")
    for block in blocks:
        block.norm2 = TokenBatchNorm(block.norm2.normalized_shape[0])
