"""A backbone of the user's own: any module that turns images into features."""

import copy
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.errors import BadConfig, first_cause
from coterie.models.backbone import OWN, BackboneConfig


@final
class OwnBackbone(nn.Module):
    """A copy of the user's module, with the width of its features; maps are averaged over their pixels.

    Attributes:
        network: the copy.
        num_features: the width F of the features.
        channels_last: whether it takes images in this memory layout.
    """

    def __init__(self, module: nn.Module, channels: int, size: int) -> None:
        """Copy a module, and find out how wide its features are from one blank image.

        Args:
            module: turns images ``[B, C, H, W]`` into features ``[B, F]`` or maps ``[B, F, h, w]``; stays as it is.
            channels: C.
            size: H and W.

        Raises:
            BadConfig: it does not, has nothing to train, or cannot be copied.
        """
        super().__init__()
        name = type(module).__name__
        try:
            self.network = copy.deepcopy(module)
        except Exception as error:  # whatever a module may hold
            raise BadConfig(f"backbone: this {name} cannot be copied ({first_cause(error)})") from error
        like = next(self.network.parameters(), None)
        if like is None:
            raise BadConfig(f"backbone: this {name} has no parameters to train")
        blank = torch.zeros(1, channels, size, size, dtype=like.dtype, device=like.device)
        self.num_features = _width(self._try(blank, name), name)
        self.channels_last = self._takes_channels_last(blank)
        self.train()

    def _try(self, blank: Tensor, name: str) -> Any:
        """What the network returns for a blank image; it stays as it is."""
        training = self.network.training
        try:
            with torch.no_grad():
                return self.network.eval()(blank)
        except Exception as error:  # any, as in a user's own forward
            shape = list(blank.shape)
            raise BadConfig(
                f"backbone: this {name} cannot take images {shape} ({first_cause(error)}): set views.channels or the sizes of "
                "views.crops to what it takes"
            ) from error
        finally:
            self.network.train(training)

    def _takes_channels_last(self, blank: Tensor) -> bool:
        """Whether the network computes in the memory layout that convolutions prefer: ``view`` does not."""
        last: dict[str, Any] = {"memory_format": torch.channels_last}
        try:
            with torch.no_grad():
                copy.deepcopy(self.network).eval().to(**last)(blank.expand(2, -1, -1, -1).contiguous(**last))
        except Exception:  # as above
            return False
        return True

    def forward(self, images: Float[Tensor, "b c _ _"]) -> Float[Tensor, "b f"]:
        """Turn images into features."""
        features: Tensor = self.network(images if self.channels_last else images.contiguous())
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's networks; AttributeError if the module has no such method."""
        self.network.set_grad_checkpointing(enable)  # type: ignore[operator]

    def group_matcher(self, coarse: bool = False) -> Any:
        """As timm's networks, whose layers are numbered.

        Raises:
            BadConfig: the layers of a module of the user's own are not.
        """
        raise BadConfig(
            f"the layers of a {type(self.network).__name__} of your own have no numbers: use backbone.trainable=all or none, "
            "and optimizer.layer_decay=1"
        )

    def untrained(self) -> "OwnBackbone":
        """A copy with random weights: of each layer that torch knows how to reset, from torch's global generator."""
        other = copy.deepcopy(self)
        for layer in other.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
        return other


def own_name(module: nn.Module) -> str:
    """What stands in the settings as the name of a user's module.

    Args:
        module: the module.
    """
    return f"{OWN}{type(module).__name__}"


def wrap_backbone(module: nn.Module, config: BackboneConfig, image_size: int) -> OwnBackbone:
    """The backbone of a run from the user's module, with its weights as they are.

    Args:
        module: the user's.
        config: settings of the backbone; those of timm's networks must be at their defaults.
        image_size: side of an image that it takes, in pixels.

    Raises:
        BadConfig: the settings are those of another network, or the module does not give features.
    """
    if config.name != own_name(module):
        raise BadConfig(f"the backbone of this run is {shown_name(config.name)}, not this {type(module).__name__}")
    plain = BackboneConfig(
        config.name,
        channels=config.channels,
        trainable=config.trainable,
        frozen_statistics=config.frozen_statistics,
    )
    different = [name for name, value in vars(config).items() if value != getattr(plain, name)]
    if "weights" in different:
        raise BadConfig(
            f"a {type(module).__name__} of your own starts with its own weights: leave out backbone.weights"
        )
    if different:
        raise BadConfig(
            f"backbone.{different[0]} is for networks of timm, not for a {type(module).__name__} of your own"
        )
    return OwnBackbone(module, config.channels, image_size)


def shown_name(name: str) -> str:
    """The name of a backbone for a message."""
    return f"a {name.removeprefix(OWN)} of your own" if name.startswith(OWN) else f"timm's {name}"


def users_module(backbone: nn.Module) -> nn.Module:
    """The user's module in a backbone; of timm's networks the network itself.

    Args:
        backbone: of a run.
    """
    return backbone.network if isinstance(backbone, OwnBackbone) else backbone


def _width(features: Any, name: str) -> int:
    if isinstance(features, Tensor) and features.ndim in (2, 4) and len(features) == 1 and features.is_floating_point():
        return features.shape[1]
    found = f"{list(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
    raise BadConfig(
        f"backbone: this {name} returns {found} for one image: let it return a tensor of features [B, F] or maps [B, F, h, w]"
    )
