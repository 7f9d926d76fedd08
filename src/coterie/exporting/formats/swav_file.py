"""``swav.pth``: a ResNet in the layout of SwAV's release, which its authors' evaluation scripts read."""

from pathlib import Path

import torch
from timm.models.resnet import Bottleneck, ResNet

from coterie.atomic import writing
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.formats.other_layout import on_normalized, reread

FILE = "swav.pth"
_BLOCKS = [3, 4, 6, 3]


def write_swav(what: Exportable, folder: Path) -> Written:
    """Write ``swav.pth``: the backbone, each name behind ``module.``.

    The authors' code is no library that could be installed: the file is read as any of theirs is, into a network that is built
    anew.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: it is no ResNet-50 of theirs, or a classifier.
    """
    config, network = what.model.backbone, what.model.network
    if what.head is not None:
        raise what.refusal("SwAV's layout", "it is that of a backbone, to which their script adds a classifier")
    known = isinstance(network, ResNet) and isinstance(network.layer1[0], Bottleneck)
    blocks = [len(getattr(network, f"layer{number}")) for number in range(1, 5)] if known else []
    if blocks != _BLOCKS or config.stem != "standard" or config.channels != 3:
        raise what.refusal("SwAV's layout", "their networks are ResNet-50s of any width, for 3 channels")
    with writing(folder / FILE) as part:
        torch.save({f"module.{name}": value.clone() for name, value in network.state_dict().items()}, part)
    width = "" if config.width == 1 else f"w{config.width:g}"
    usage = f"""\
python eval_linear.py --data_path IMAGENET --arch resnet50{width} --pretrained FOLDER/{FILE}  # in a shell, in their repository
"""
    return Written("coterie's reader", on_normalized(what, reread(what, folder / FILE)), "features", 0.0, usage)
