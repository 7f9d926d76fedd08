"""``mmlab.pth``: a ResNet, ViT or Swin under OpenMMLab's names, for MMDetection, MMSegmentation and MMPretrain."""

import re
from pathlib import Path
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from coterie.atomic import writing
from coterie.exporting.formats.detectron2_file import depth
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.formats.other_layout import on_normalized, plain_resnet, refuse_head, reread
from coterie.exporting.formats.transformers_layout import OtherNetworkError, transformers_layout
from coterie.version import __version__

FILE, PREFIX = "mmlab.pth", "backbone."
_SWIN = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) - 1}.downsample."),  # timm's come first
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^norm\.", "norm3."),
)
_VIT = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^norm\.", "ln1."),
    (r"^blocks\.", "layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.ls1\.gamma$", ".attn.gamma1.weight"),
    (r"\.ls2\.gamma$", ".ffn.gamma2.weight"),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)


def write_mmlab(what: Exportable, folder: Path) -> Written:
    """Write ``mmlab.pth``: ``meta``, and ``state_dict`` with each name behind ``backbone.``, as in MMPretrain's checkpoints.

    The file is read with our own reader of these names, into a network that is built anew; a test loads it with OpenMMLab's own
    networks where they are installed.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: OpenMMLab has no such network, or it is a classifier.
    """
    backbone, after = mmlab_settings(what)
    tensors = {f"{PREFIX}{name}": each for name, each in mmlab_tensors(what.model.network).items()}
    meta = {"coterie": __version__, "backbone": what.model.backbone.name}
    with writing(folder / FILE) as part:
        torch.save({"meta": meta, "state_dict": tensors}, part)
    look = what.model.preprocessing
    mean, std = ([round(255 * value, 3) for value in values] for values in (look.mean, look.std))
    where = f'dict(type="Pretrained", prefix="{PREFIX}", checkpoint="FOLDER/{FILE}")'
    given = "".join(f"        {name}={value!r},\n" for name, value in backbone.items())
    pretraining = backbone["type"] == "mmpretrain.VisionTransformer"
    order = "to_rgb" if pretraining else "bgr_to_rgb"
    usage = f"""\
# lines of a config of {"MMPretrain" if pretraining else "MMDetection or MMSegmentation"}, which is Python itself
model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, {order}=True),
    backbone=dict(
        _delete_=True,  # nothing of the config that this one is based on
{given}        init_cfg={where},
    ),
{after})
"""
    any_size = isinstance(what.model.network, ResNet)
    run = on_normalized(what, reread(what, folder / FILE))
    return Written("coterie's reader", run, "features", 0.0, usage, any_size)


def mmlab_settings(what: Exportable) -> tuple[dict[str, Any], str]:
    """The ``backbone`` of a config, and the lines that follow from it.

    Args:
        what: the model.

    Raises:
        UserError: OpenMMLab has no such network, or it is a classifier.
    """
    network: Any = what.model.network
    if isinstance(network, ResNet):
        plain_resnet(what, "mmlab")
        block: Any = network.layer1[0]
        base = block.conv1.out_channels
        if isinstance(block, Bottleneck) and (block.conv2.groups != 1 or block.bn3.num_features != 4 * base):
            raise what.refusal("mmlab", "its ResNet blocks widen four times, in one group")
        given: dict[str, Any] = {"type": "ResNet", "depth": depth(network), "style": "pytorch"}
        widths = {"base_channels": base, "stem_channels": network.conv1.out_channels}
        given |= widths if base != 64 else {}
        given |= {
            "out_indices": (0, 1, 2, 3),
            "norm_cfg": {"type": "SyncBN", "requires_grad": True},
            "norm_eval": False,
        }
        channels = [
            stage[-1].conv1.in_channels for stage in (network.layer1, network.layer2, network.layer3, network.layer4)
        ]
        return given, f"    neck=dict(in_channels={channels}),\n"
    refuse_head(what, "mmlab")
    what.refuse_own("mmlab")
    try:
        kind, settings = transformers_layout(network, what.model.backbone.channels)
    except OtherNetworkError as error:
        raise what.refusal("mmlab", str(error)) from error
    if kind == "Swin" and what.model.backbone.channels == 3:
        dims = settings["embed_dim"]
        given = {"type": "SwinTransformer", "embed_dims": dims, "depths": settings["depths"]}
        given |= {"num_heads": settings["num_heads"], "window_size": settings["window_size"]}
        given |= {"mlp_ratio": int(settings["mlp_ratio"]), "out_indices": (0, 1, 2, 3)}
        return given, f"    neck=dict(in_channels={[dims * 2**stage for stage in range(4)]}),\n"
    if kind not in ("ViT", "Dinov2") or type(network.blocks[0].mlp) is not Mlp or what.model.backbone.channels != 3:
        raise what.refusal("mmlab", "it is written for ResNets, plain ViTs and Swins of three channels")
    dims, layers = settings["hidden_size"], settings["num_hidden_layers"]
    arch = {"embed_dims": dims, "num_layers": layers, "num_heads": settings["num_attention_heads"]}
    arch |= {"feedforward_channels": network.blocks[0].mlp.fc1.out_features}
    given = {"type": "mmpretrain.VisionTransformer", "arch": arch, "img_size": settings["image_size"]}
    given |= {"patch_size": settings["patch_size"], "qkv_bias": settings["qkv_bias"]}
    given |= {"norm_cfg": {"type": "LN", "eps": settings["layer_norm_eps"]}}
    given |= {"layer_scale_init_value": 1e-5} if kind == "Dinov2" else {}
    return given, ""


def mmlab_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network under OpenMMLab's names, as its modules hold them.

    Args:
        network: a ResNet, ViT or Swin of timm.
    """
    if isinstance(network, ResNet):
        return {name: each.clone() for name, each in network.state_dict().items()}
    swin = hasattr(network, "layers")
    rules: Any = _SWIN if swin else _VIT
    found = {}
    for name, each in network.state_dict().items():
        if swin and re.fullmatch(r"layers\.\d+\.downsample\.\w+\.\w+", name):
            # timm has the four patches column by column, each whole; theirs are row by row within each channel
            each = each.reshape(*each.shape[:-1], 2, 2, -1).transpose(-3, -2).movedim(-1, -3).flatten(-3)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = each.clone(memory_format=torch.contiguous_format)
    return found
