"""The small network between features and embeddings: projector and predictor are both one of these."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from coterie.errors import BadConfig


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a head.

    Attributes:
        hidden: width of each hidden layer; an empty tuple leaves one linear layer.
        width: D, the width of the embedding.
        batch_norm: batch norm after each hidden linear layer.
        last_batch_norm: batch norm without scale and shift after the last linear layer (SMoG, ReSA).
        activation: "relu" or "gelu", after each hidden layer.
    """

    hidden: tuple[int, ...] = (2048,)
    width: int = 128
    batch_norm: bool = True
    last_batch_norm: bool = False
    activation: Literal["relu", "gelu"] = "relu"


class Head(nn.Module):
    """Linear, batch norm, activation, as often as asked; then Linear. Every linear layer has a bias.

    The outputs are not divided by their norm: :class:`~coterie.models.encoder.Encoder` does that. The default is the
    projector of SwAV (https://arxiv.org/abs/2006.09882, appendix A.1): 2048 hidden, 128 out.
    """

    def __init__(self, inputs: int, config: HeadConfig) -> None:
        """Build the layers for rows of width ``inputs``; :class:`BadConfig` if a width is below 1."""
        super().__init__()
        if min(*config.hidden, config.width, inputs) < 1:
            raise BadConfig(f"a head needs widths of at least 1, not hidden = {config.hidden}, width = {config.width}")
        layers: list[nn.Module] = []
        for width in config.hidden:
            layers.append(nn.Linear(inputs, width))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU() if config.activation == "relu" else nn.GELU())
            inputs = width
        layers.append(nn.Linear(inputs, config.width))
        if config.last_batch_norm:
            layers.append(nn.BatchNorm1d(config.width, affine=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, rows: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Map features to embeddings that are not yet unit rows."""
        outputs: Tensor = self.layers(rows)
        return outputs
