"""Put the weights of a timm network into another library's network of the same kind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.formats.transformers_layout import OtherNetworkError
from coterie.models.backbone import build_backbone
from coterie.models.other_names import places_in_timm
from coterie.models.pretrained import load_weights

_RESNETS = re.compile(r"(wide_)?resnet(18|34|50|101|152)(_2)?|resnext(50_32x4d|101_32x8d|101_64x4d)")


def fill(target: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a timm network, whose names and joined tensors differ.

    Args:
        target: another library's network, without a head; changed in place.
        network: timm's.

    Raises:
        OtherNetworkError: a tensor is missing in one of them, or has another shape.
    """
    state, expected = network.state_dict(), target.state_dict()
    places, taken, filled = places_in_timm(expected), set[str](), dict[str, Tensor]()
    for name, wanted in expected.items():
        place, third = places[name]
        if place not in state:
            if wanted.is_floating_point() and not name.endswith("mask_token"):  # only read where patches are masked
                raise OtherNetworkError(f"it has no {name}")
            continue  # an index that the library computes itself
        taken.add(place)
        tensor = state[place] if third is None else state[place].chunk(3)[third]
        if [side for side in tensor.shape if side != 1] != [side for side in wanted.shape if side != 1]:
            raise OtherNetworkError(f"{place} is {_shape(tensor)}, and {_shape(wanted)} there")
        filled[name] = tensor.reshape(wanted.shape)
    if left := [name for name in state if name not in taken]:
        raise OtherNetworkError(f"it has no place for {left[0]}")
    target.load_state_dict(filled, strict=False)


def fill_head(target: nn.Linear, what: Exportable) -> None:
    """Copy the linear head of a classifier; columns that the target has beyond its features become zero."""
    assert what.head is not None
    assert what.head.linear is not None
    weight, bias = what.head.linear
    with torch.no_grad():
        target.weight.zero_()
        target.weight[:, : weight.shape[1]] = weight
        target.bias.copy_(bias)


def on_normalized(what: Exportable, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network of normalized images as one of plain ones."""

    def of_pixels(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(what.normalized(pixels))

    return of_pixels


def refuse_head(what: Exportable, library: str) -> None:
    """Refuse a classifier where a format holds the backbone of something else.

    Raises:
        UserError: it is one.
    """
    if what.head is not None:
        raise what.refusal(library, "its file is that of a backbone, to which detectors add their heads")


def plain_resnet(what: Exportable, library: str) -> Any:
    """The network of a model, if it is a ResNet with plain blocks and a 7x7 stem.

    Args:
        what: the model.
        library: for the message.

    Raises:
        UserError: it is not, or a classifier.
    """
    refuse_head(what, library)
    config, network = what.model.backbone, what.model.network
    if not isinstance(network, ResNet) or not _RESNETS.fullmatch(config.name.partition(".")[0]):
        raise what.refusal(library, "it has no such network with this arithmetic")
    if config.stem != "standard" or config.channels != 3:
        raise what.refusal(library, "its ResNets have a stem of one 7x7 convolution over three channels")
    return network


def reread(what: Exportable, file: Path) -> nn.Module:
    """A network that is built anew, with the weights of a file as our own reader finds them.

    Args:
        what: the model.
        file: in any layout that our reader knows.
    """
    with torch.random.fork_rng(devices=[]):
        loaded = build_backbone(what.model.backbone, what.model.image_size)
    load_weights(loaded, file, what.model.backbone.channels)
    return loaded.eval()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
