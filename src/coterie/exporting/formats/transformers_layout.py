"""Which network of transformers is the same as one of timm, with its settings; transformers itself is not imported."""

from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.resnet import Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class OtherNetworkError(ValueError):
    """Two networks are of different kinds; the message says in what."""


def transformers_layout(network: nn.Module, channels: int) -> tuple[str, dict[str, Any]]:
    """Find transformers' network of the same kind.

    Differences that names and shapes do not show, such as another activation, are left to the comparison of what both compute.

    Args:
        network: of timm.
        channels: of its images.

    Returns:
        What the names of transformers' classes begin with, and the arguments of its configuration.

    Raises:
        OtherNetworkError: there is none.
    """
    found: tuple[str, dict[str, Any]] | None = None
    if isinstance(network, ResNet):
        found = "ResNet", _resnet(network)
    elif type(network) is VisionTransformer:
        found = _vit(network)
    elif isinstance(network, SwinTransformer):
        found = "Swin", _swin(network)
    elif isinstance(network, ConvNeXt):
        found = "ConvNext", _convnext(network)
    if found is None:
        raise OtherNetworkError("it has no such network of its own")
    name, settings = found
    return name, settings | {"num_channels": channels}


def _resnet(network: ResNet) -> dict[str, Any]:
    if not isinstance(network.conv1, nn.Conv2d) or network.conv1.kernel_size != (7, 7):
        raise OtherNetworkError("its ResNets have a stem of one 7x7 convolution")
    stages = [getattr(network, f"layer{number}") for number in range(1, 5)]
    bottleneck = isinstance(stages[0][0], Bottleneck)
    if getattr(stages[0][0], "se", None) is not None or stages[0][0].conv2.groups != 1:
        raise OtherNetworkError("its ResNets have plain blocks")
    return {
        "embedding_size": network.conv1.out_channels,
        "hidden_sizes": [(stage[-1].bn3 if bottleneck else stage[-1].bn2).num_features for stage in stages],
        "depths": [len(stage) for stage in stages],
        "layer_type": "bottleneck" if bottleneck else "basic",
    }


def _vit(network: VisionTransformer) -> tuple[str, dict[str, Any]]:
    if network.cls_token is None or network.num_prefix_tokens != 1 or network.global_pool != "token":
        raise OtherNetworkError("its ViTs have one class token, which is their feature")
    block: Any = network.blocks[0]
    if not isinstance(block.norm2, nn.LayerNorm):
        raise OtherNetworkError("its ViTs have layer norms")
    settings = {
        "hidden_size": network.embed_dim,
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": network.norm.eps,
        "image_size": network.patch_embed.img_size[0],
        "patch_size": network.patch_embed.patch_size[0],
        "qkv_bias": block.attn.qkv.bias is not None,
    }
    hidden = block.mlp.fc1.out_features
    if isinstance(block.ls1, nn.Identity):
        return "ViT", settings | {"intermediate_size": hidden}
    return "Dinov2", settings | {"mlp_ratio": hidden // network.embed_dim}


def _swin(network: SwinTransformer) -> dict[str, Any]:
    stages: Any = network.layers
    if not isinstance(stages[0].blocks[0].norm2, nn.LayerNorm):
        raise OtherNetworkError("its Swins have layer norms")
    if len({block.window_size for stage in stages for block in stage.blocks}) > 1:
        raise OtherNetworkError("its Swins have windows of one size, which do not fit into the maps of small images")
    return {
        "image_size": network.patch_embed.img_size[0],
        "patch_size": network.patch_embed.patch_size[0],
        "embed_dim": network.embed_dim,
        "depths": [len(stage.blocks) for stage in stages],
        "num_heads": [stage.blocks[0].attn.num_heads for stage in stages],
        "window_size": stages[0].blocks[0].window_size[0],
        "mlp_ratio": float(stages[0].blocks[0].mlp.fc1.out_features / network.embed_dim),
        "layer_norm_eps": network.norm.eps,
    }


def _convnext(network: ConvNeXt) -> dict[str, Any]:
    stages: Any = network.stages
    if not isinstance(network.stem[0], nn.Conv2d) or getattr(network.head, "norm", None) is None:
        raise OtherNetworkError("its ConvNeXts have a stem of patches, and a norm after pooling")
    return {
        "patch_size": network.stem[0].kernel_size[0],
        "hidden_sizes": [stage.blocks[0].conv_dw.out_channels for stage in stages],
        "depths": [len(stage.blocks) for stage in stages],
        "layer_norm_eps": network.head.norm.eps,
    }
