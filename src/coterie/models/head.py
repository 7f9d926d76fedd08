"""The small network (MLP) that projectors and predictors are made of."""

from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from coterie.errors import BadConfig


@final
@dataclass(frozen=True)
class HeadConfig:
    """Settings of :class:`Head`; the defaults are those of SwAV's projector (arXiv 2006.09882, appendix A.1).

    Attributes:
        hidden: width of each hidden layer; an empty tuple leaves a single linear layer.
        width: width D of the output.
        batch_norm: add a batch norm after each hidden linear layer.
        last_batch_norm: add a batch norm without scale and shift after the last linear layer (SMoG, ReSA).
        activation: "relu" or "gelu", after each hidden layer.
    """

    hidden: tuple[int, ...] = (2048,)
    width: int = 128
    batch_norm: bool = True
    last_batch_norm: bool = False
    activation: Literal["relu", "gelu"] = "relu"


@final
class Head(nn.Module):
    """Hidden layers of linear, batch norm and activation, then a linear layer; every linear layer has a bias.

    The outputs are not divided by their norm: :class:`~coterie.models.encoder.Encoder` does that.
    """

    def __init__(self, inputs: int, config: HeadConfig) -> None:
        """Build the layers.

        Args:
            inputs: width F of the inputs.
            config: settings of the head.

        Raises:
            BadConfig: a width is below 1.
        """
        super().__init__()
        if min(*config.hidden, config.width, inputs) < 1:
            raise BadConfig(
                f"a head needs widths of at least 1, not hidden={list(config.hidden)}, width={config.width}"
            )
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
        """Map rows to outputs that are not yet divided by their norm.

        Args:
            rows: features of a backbone, or a projector's outputs.

        Returns:
            One output of width D per row.
        """
        outputs: Tensor = self.layers(rows)
        return outputs
