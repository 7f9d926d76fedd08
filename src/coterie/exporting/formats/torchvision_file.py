"""``model.pth`` under torchvision's names, for its own network of the same kind."""

import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from coterie.atomic import writing
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.formats.other_layout import fill, fill_head, on_normalized
from coterie.exporting.formats.transformers_layout import OtherNetworkError

FILE = "model.pth"
_RESNETS = (
    "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 "
    "resnext50_32x4d resnext101_32x8d resnext101_64x4d"
).split()
_CONVNEXTS = "convnext_tiny convnext_small convnext_base convnext_large".split()
_VIT = re.compile(r"vit_(b|l|h)[a-z]+_patch(\d+)_\d+")
_SWIN = re.compile(r"swin_(t|s|b)[a-z]+_patch4_window7_224")
_HEADS = {"ResNet": "fc", "ConvNeXt": "classifier.2", "VisionTransformer": "heads.head", "SwinTransformer": "head"}


def write_torchvision(what: Exportable, folder: Path) -> Written:
    """Write ``model.pth``, and load it into torchvision's network.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: torchvision has no such network.
    """
    what.refuse_own("torchvision")
    name, vit = _builder(what), what.model.backbone.name.startswith("vit_")
    arguments: dict[str, Any] = {"image_size": what.model.preprocessing.size} if vit else {}
    if what.head is not None:
        arguments["num_classes"] = len(what.head.classes)
    filled, head = _network(name, arguments, headless=what.head is None)
    classifier = filled.get_submodule(head)
    filled.set_submodule(head, nn.Identity())  # a timm network without a head fills it
    try:
        fill(filled, what.model.network)
    except OtherNetworkError as error:
        raise what.refusal(f"torchvision's {name}", str(error)) from error
    if what.head is not None:
        assert isinstance(classifier, nn.Linear)
        fill_head(classifier, what)
        filled.set_submodule(head, classifier)
    with writing(folder / FILE) as part:
        torch.save({key: value.clone() for key, value in filled.state_dict().items()}, part)
    loaded, _ = _network(name, arguments, headless=what.head is None)
    loaded.load_state_dict(torch.load(folder / FILE, weights_only=True))
    given = ", ".join(f"{key}={value}" for key, value in arguments.items())
    without = f'network.set_submodule("{head}", torch.nn.Identity())  # features instead of classes\n'
    usage = f"""\
import torch, torchvision

network = torchvision.models.{name}({given}).eval()
{without if what.head is None else ""}network.load_state_dict(torch.load("FOLDER/{FILE}", weights_only=True))
{what.logits_or_features} = network(pixels)
"""
    library = f"torchvision {torchvision.__version__.partition('+')[0]}"
    any_size = not name.startswith(("vit", "swin"))  # Swins of the two pad other sizes differently
    return Written(library, on_normalized(what, loaded.eval()), what.logits_or_features, 1e-5, usage, any_size)


def _builder(what: Exportable) -> str:
    """The function of ``torchvision.models`` that builds the network."""
    config = what.model.backbone
    name = config.name.partition(".")[0]
    if config.channels != 3:
        raise what.refusal("torchvision", f"its networks take 3 channels, and this one {config.channels}")
    if config.width != 1:
        raise what.refusal("torchvision", f"its ResNets have no width, and this one is {config.width:g} times as wide")
    if config.stem != "standard":
        raise what.refusal("torchvision", "its ResNets have no small stem")
    if name in (*_RESNETS, *_CONVNEXTS):
        return name
    if vit := _VIT.fullmatch(name):
        return f"vit_{vit[1]}_{vit[2]}"
    if swin := _SWIN.fullmatch(name):
        return f"swin_{swin[1]}"
    raise what.refusal("torchvision", "it has no such network")


def _network(name: str, arguments: dict[str, Any], *, headless: bool) -> tuple[nn.Module, str]:
    """Torchvision's network in evaluation mode, and where its classifier is."""
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = torchvision.models.get_model(name, **arguments).eval()
    head = _HEADS[type(network).__name__]
    if headless:
        network.set_submodule(head, nn.Identity())
    return network, head
