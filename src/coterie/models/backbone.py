"""Backbones: any timm network by name, for images of any size and number of channels."""

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, final

import timm
import torch
from torch import nn

from coterie.errors import BadConfig
from coterie.models.layers import check_trainable
from coterie.models.pretrained import load_weights
from coterie.models.token_batch_norm import replace_mlp_norms

OWN = "python:"
"""Begins the name of a backbone that a caller gave in Python (:mod:`coterie.models.own_backbone`)."""


@final
@dataclass(frozen=True)
class BackboneConfig:
    """Settings of the backbone.

    Attributes:
        name: a timm name, such as resnet50, vit_small_patch16_224, swin_tiny_patch4_window7_224, convnext_atto; of a module
            that was given in Python, ``python:CLASS``.
        width: factor on the channels of a ResNet, including the stem; 2, 4 and 5 give SwAV's RN50-w2, -w4 and -w5.
        stem: "small" gives a ResNet a 3x3 first convolution with stride 1 and no pooling, for images below about 64 pixels;
            "standard" leaves the network as it is.
        channels: number of channels of the images.
        drop_path: rate of stochastic depth, in [0, 1).
        mlp_norm: "batch" gives timm's Swins and ViTs a batch norm over all tokens instead of the layer norm before each MLP, as
            in SMoG's Swin-T; "layer" leaves the network as it is.
        weights: MODEL whose weights to start from: a run's folder, a weights file, ``timm:NAME``; None: random weights.
        trainable: layers that are trained: ``all``, ``last:N`` (the last N blocks, as timm orders them) or ``none`` (only heads
            and groups). Frozen layers stay in evaluation mode.
        frozen_statistics: whether batch norms normalize with the running statistics that the weights came with, and keep them;
            their scale and shift are trained.
    """

    name: str = "resnet50"
    width: float = 1.0
    stem: Literal["standard", "small"] = "standard"
    channels: int = 3
    drop_path: float = 0.0
    mlp_norm: Literal["layer", "batch"] = "layer"
    weights: str | None = None
    trainable: str = "all"
    frozen_statistics: bool = False


def build_backbone(config: BackboneConfig, image_size: int) -> nn.Module:
    """Build the network that turns images ``[B, C, H, W]`` into features ``[B, F]``, with timm's pooling.

    ResNets are initialized like SwAV's: Kaiming initialization by fan-out, the last batch norm of a block not at zero. Random
    weights come from torch's global generator. Nothing is downloaded.

    Args:
        config: settings of the backbone.
        image_size: side of the images in pixels that transformers are laid out for; they accept other sizes too.

    Returns:
        The network, in training mode, on torch's default device.

    Raises:
        BadConfig: the name is unknown, or this network does not have a setting.
        UserError: the starting weights are missing or belong to another network.
    """
    _check(config)
    check_trainable(config.trainable)
    try:
        network: nn.Module = timm.create_model(config.name, **timm_arguments(config, image_size))
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = f"it takes no drop_path ({error})" if config.drop_path and isinstance(error, TypeError) else str(error)
        raise BadConfig(f"{config.name} cannot be built for {image_size}-pixel images: {first_line(reason)}") from error
    if _is_reshaped(config):
        _replace_stem(network, config)
    if config.mlp_norm == "batch":
        replace_mlp_norms(network, config.name)
    if config.weights is not None:
        load_weights(network, config.weights, config.channels)
    return network


def timm_arguments(config: BackboneConfig, image_size: int) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model`` besides the name of the network.

    Args:
        config: settings of the backbone.
        image_size: side of the images in pixels that transformers are laid out for.
    """
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": config.channels}
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    if is_resnet(config.name):
        arguments["zero_init_last"] = False
    if config.width != 1:
        # In timm only deep stems have a width; their convolutions are replaced by a single one afterwards.
        arguments |= {"stem_type": "deep", "stem_width": round(32 * config.width)}
        arguments["channels"] = tuple(round(channels * config.width) for channels in (64, 128, 256, 512))
    return arguments | _size_arguments(config.name, image_size)


def is_plain_timm(config: BackboneConfig) -> bool:
    """Return whether ``timm.create_model`` alone builds this network.

    Args:
        config: settings of the backbone.
    """
    return not _is_reshaped(config) and config.mlp_norm == "layer" and not config.name.startswith(OWN)


def is_resnet(name: str) -> bool:
    """Return whether this is one of timm's ResNets, the only networks with a choice of width and stem.

    Args:
        name: a timm name.
    """
    return name.partition(".")[0] in timm.list_models(module="resnet")


def feature_width(backbone: nn.Module) -> int:
    """Return the width F of the features; timm's ``num_features`` is smaller if a network widens them after pooling.

    Args:
        backbone: a network of timm.
    """
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def _check(config: BackboneConfig) -> None:
    if config.name.startswith(OWN):
        raise BadConfig(
            f"this backbone is a {config.name.removeprefix(OWN)} that was given in Python: give the module there again, as in "
            "backbone=module"
        )
    if not timm.is_model(config.name.partition(".")[0]):  # what follows a dot only names public weights
        near = difflib.get_close_matches(config.name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "use a timm name, such as resnet50"
        raise BadConfig(f"there is no backbone {config.name}: {hint}")
    if config.channels < 1:
        raise BadConfig(f"backbone.channels is {config.channels}: it must be at least 1")
    if not 0 <= config.drop_path < 1:
        raise BadConfig(f"backbone.drop_path is {config.drop_path}: it must be at least 0 and below 1")
    if not _is_reshaped(config):
        return
    if not is_resnet(config.name):
        raise BadConfig(
            f"backbone.width and .stem are for ResNets: use width 1 and the standard stem for {config.name}"
        )
    if config.width <= 0 or 32 * config.width % 1:
        raise BadConfig(f"backbone.width is {config.width}: it must be a positive multiple of 1/32")
    if config.width != 1 and not _has_plain_stem(config.name):
        raise BadConfig(f"backbone.width is for ResNets with one stem convolution, such as resnet50, not {config.name}")


def _is_reshaped(config: BackboneConfig) -> bool:
    return config.width != 1 or config.stem != "standard"


def _replace_stem(network: nn.Module, config: BackboneConfig) -> None:
    """Use a single stem convolution: 7x7 with stride 2 as in SwAV's (wide) ResNets, or 3x3 with stride 1 and no pooling."""
    kernel, stride = (3, 1) if config.stem == "small" else (7, 2)
    stem: dict[str, int] = network.feature_info[0]  # type: ignore[index, assignment]
    width = stem["num_chs"]
    convolution = nn.Conv2d(config.channels, width, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = convolution
    if config.stem == "small":
        network.maxpool = nn.Identity()


@cache
def _has_plain_stem(name: str) -> bool:
    with torch.device("meta"):
        return isinstance(timm.create_model(name).conv1, nn.Conv2d)


def _size_arguments(name: str, image_size: int) -> dict[str, Any]:
    flag = _size_flag(name)
    if flag is None:
        return {}
    return {"img_size": image_size} | flag


@cache
def _size_flag(name: str) -> dict[str, bool] | None:
    """Return the argument that lets a network laid out for one image size accept others; None if it is not laid out for one.

    timm's networks do not declare their arguments, so each is tried, on the meta device where that costs nothing. Swins come
    first: some versions of them silently accept the argument of the ViTs.
    """
    for flag in ({"strict_img_size": False}, {"dynamic_img_size": True}, {}):
        try:
            with torch.device("meta"):
                timm.create_model(name, num_classes=0, img_size=224, **flag)
        except TypeError as error:
            if "unexpected keyword" in str(error):
                continue
        except (RuntimeError, AssertionError, ValueError, NotImplementedError):
            pass  # it accepts the arguments; whether the values fit shows when it is built
        return flag
    return None


def first_line(text: str) -> str:
    """Return the first line of another library's message, shortened."""
    return text.strip().partition("\n")[0][:200]
