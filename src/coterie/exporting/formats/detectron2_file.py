"""``detectron2.pth``: a ResNet under Detectron2's names, for the backbone of any of its detectors."""

import re
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import Bottleneck
from torch import nn

from coterie.atomic import writing
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.formats.other_layout import on_normalized, plain_resnet, reread

FILE = "detectron2.pth"
_NARROW = 64  # channels of the first stage in the only ResNet-18s and -34s that its config builds


def write_detectron2(what: Exportable, folder: Path) -> Written:
    """Write ``detectron2.pth``: ``model`` with the tensors, and ``matching_heuristics``.

    The latter lets Detectron2 find the place of each name by its end: ``stem.conv1.weight`` is that of
    ``backbone.bottom_up.stem.conv1`` under a feature pyramid. Were ``__author__`` Caffe2, it would translate the names.
    Detectron2 is not on PyPI: the file is read with our own reader of its names, into a network that is built anew.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: it is no ResNet that Detectron2's config builds, or a classifier.
    """
    network = plain_resnet(what, "detectron2")
    first: Any = network.layer1[0]
    bottleneck = isinstance(first, Bottleneck)
    if not bottleneck and network.conv1.out_channels != _NARROW:
        raise what.refusal("detectron2", f"its ResNet-18s and -34s have {_NARROW} channels in the first stage")
    tensors = {name: each for name, each in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    content: dict[str, Any] = {"model": {detectron2_name(name): each.clone() for name, each in tensors.items()}}
    with writing(folder / FILE) as part:
        torch.save(content | {"__author__": "Coterie", "matching_heuristics": True}, part)
    look = what.model.preprocessing
    mean, std = ([round(255 * value, 3) for value in values] for values in (look.mean, look.std))
    usage = f"""\
from detectron2 import model_zoo

cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")  # any with a ResNet
cfg.MODEL.WEIGHTS = "FOLDER/{FILE}"
cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", {mean}, {std}
cfg.MODEL.RESNETS.DEPTH = {depth(network)}
cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = {network.conv1.out_channels}
cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = {(first.bn3 if bottleneck else first.bn2).num_features}
cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = {_groups(first)}
cfg.MODEL.BACKBONE.FREEZE_AT = 0  # all layers learn, and norms with the batches of all GPUs
cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "SyncBN"
"""
    return Written("coterie's reader", on_normalized(what, reread(what, folder / FILE)), "features", 0.0, usage)


def detectron2_name(name: str) -> str:
    """The name of a ResNet's tensor in Detectron2.

    Args:
        name: in timm and torchvision.
    """
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"^(?=conv|bn)", "stem.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)


def depth(network: nn.Module) -> int:
    """The number of layers in the name of a ResNet, from its blocks.

    Args:
        network: of timm, with basic blocks or bottlenecks.
    """
    stages: list[Any] = [getattr(network, f"layer{number}") for number in range(1, 5)]
    return 2 + sum(map(len, stages)) * (3 if isinstance(stages[0][0], Bottleneck) else 2)


def _groups(block: Any) -> str:
    """Groups of the 3x3 convolutions, and channels of each in the first stage."""
    if not isinstance(block, Bottleneck):
        return f"1, {_NARROW}"
    return f"{block.conv2.groups}, {block.conv2.out_channels // block.conv2.groups}"
