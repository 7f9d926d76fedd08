"""The layers of a backbone in order, and which of them are trained."""

import re
from collections.abc import Mapping
from typing import Any

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from coterie.errors import BadConfig

_BELONGS_TO_THE_LAST = 99_999
"""In timm's matchers: what belongs to the layer before it."""


def layer_numbers(backbone: nn.Module) -> dict[str, int]:
    """The number of the layer that each parameter belongs to, by its name; 0 is the stem.

    The layers are those of timm's ``group_matcher``, as for layer-wise learning rates in timm: the stem, then the blocks: of a
    ResNet, a ViT, a ConvNeXt each residual block; a Swin's patch merging belongs to the block after it. Norms, class tokens and
    convolutions after the last block belong to that one.

    Args:
        backbone: a network of timm.

    Raises:
        BadConfig: timm does not order the layers of this network.
    """
    matcher: Any = getattr(backbone, "group_matcher", lambda coarse: None)(coarse=False)
    if matcher is None:
        raise BadConfig(
            f"timm does not say what the layers of a {type(backbone).__name__} are: use backbone.trainable=all or none, and "
            "optimizer.layer_decay=1"
        )
    if isinstance(matcher, Mapping):  # what it does not name would be a layer of its own: a last norm alone
        matcher = {**matcher, "rest": [(".*", (_BELONGS_TO_THE_LAST,))]}
    numbers: dict[str, int] = group_parameters(backbone, matcher, reverse=True)
    return numbers


def freeze(backbone: nn.Module, trainable: str, name: str) -> tuple[str, ...]:
    """Keep all parameters from being trained but those of the last layers.

    Frozen parameters have no gradient, so that no optimizer decays or moves them.

    Args:
        backbone: the network, changed in place.
        trainable: ``all``, ``last:N`` (the last N layers of :func:`layer_numbers`) or ``none``.
        name: what the network is called in a message.

    Returns:
        The names of the modules that are frozen as a whole, each with everything in it; "" is the network itself. They are to
        stay in evaluation mode: batch norms keep their statistics and normalize with them, nothing is dropped, as in
        fine-tuning with frozen layers elsewhere (torchvision's and Detectron2's ``FrozenBatchNorm2d``, Keras).

    Raises:
        BadConfig: the text is none of these, or the network has fewer layers.
    """
    last = check_trainable(trainable)
    if last is None:
        return ()
    frozen = {parameter for parameter, _ in backbone.named_parameters()}
    if last:
        numbers = layer_numbers(backbone)
        count = max(numbers.values())  # the stem is none of them
        if last > count:
            raise BadConfig(
                f"backbone.trainable is {trainable!r}, but {name} has {count} layers after its stem: use last:{count} or "
                "fewer, or all"
            )
        frozen = {parameter for parameter, number in numbers.items() if number <= count - last}
    for parameter, weight in backbone.named_parameters():
        weight.requires_grad_(parameter not in frozen)
    return tuple(_whole_modules(backbone, frozen))


def batch_norms(backbone: nn.Module) -> tuple[str, ...]:
    """The names of the modules that are batch norms with running statistics.

    In evaluation mode they normalize each image by itself, as they will once the network is trained, with the statistics of the
    images that its weights were trained on: timm's ``freeze_batch_norm_2d`` does the same, and also fixes scale and shift.

    Args:
        backbone: any network.
    """
    return tuple(
        name for name, each in backbone.named_modules() if isinstance(each, _BatchNorm) and each.track_running_stats
    )


def check_trainable(trainable: str) -> int | None:
    """The number of layers that ``backbone.trainable`` trains; None: all of them, and the stem.

    Args:
        trainable: the setting.

    Raises:
        BadConfig: it is none of ``all``, ``last:N`` and ``none``.
    """
    if trainable in ("all", "none"):
        return None if trainable == "all" else 0
    last = re.fullmatch(r"last:(\d{1,6})", trainable)
    if not last or int(last[1]) < 1:
        raise BadConfig(
            f"backbone.trainable is {trainable!r}: give all, none, or last:N for the last N layers, such as last:2"
        )
    return int(last[1])


def _whole_modules(network: nn.Module, frozen: set[str], prefix: str = "") -> list[str]:
    """The largest modules with parameters all of which are frozen."""
    inner = {f"{prefix}{name}" for name, _ in network.named_parameters()}
    if inner and inner <= frozen:
        return [prefix.removesuffix(".")]
    if not inner & frozen:
        return []
    children = network.named_children()
    return [each for name, child in children for each in _whole_modules(child, frozen, f"{prefix}{name}.")]
