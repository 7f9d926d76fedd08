"""The file of what is built over the network of a MODEL, a detector or a segmenter: its tensors, and how to build it again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from torch import nn

from coterie.errors import BadConfig, UserError
from coterie.exporting.backbone_file import WeightsDescription, rebuilt_settings, write_tensors
from coterie.exporting.model import Model
from coterie.models.own_backbone import OwnBackbone

Built = TypeVar("Built", bound=nn.Module)


def refuse_own_network(model: Model, what: str) -> None:
    """Refuse a module that was given in Python, as a file cannot say how it is built.

    Args:
        model: the MODEL.
        what: what is to be built over it, such as "a detector".

    Raises:
        BadConfig: its network is one.
    """
    if isinstance(model.network, OwnBackbone):
        name = type(model.network.network).__name__
        raise BadConfig(f"{what} is built over a network of timm, and {model.name} is a {name}")


def save_built(file: Path, key: str, network: nn.Module, model: Model, facts: Mapping[str, Any]) -> Path:
    """Write what is built over a MODEL, atomically.

    Args:
        file: the file.
        key: of the header in its metadata.
        network: all of it.
        model: the network below, and how it can be built again.
        facts: plain values by which the rest is built.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written; its previous contents stay intact.
    """
    look = model.preprocessing
    description = WeightsDescription(
        rebuilt_settings(model.backbone), model.image_size, look.mean, look.std, value_range=look.value_range
    )
    header = json.dumps({"backbone": asdict(description), **facts})
    write_tensors(file, network.state_dict(), {"format": "pt", key: header})
    return file


def load_built(file: Path, build: Callable[[], Built], fits: Callable[[Mapping[str, list[int]]], bool]) -> Built:
    """Build what a file holds, and load its weights; the random number generators are not touched.

    Args:
        file: the file, whose header says what ``build`` builds.
        build: builds it with random weights.
        fits: whether shapes by name have the largest tensors: the header cannot make us allocate much more than a file holds.

    Raises:
        UserError: names or shapes are of something else.
    """
    damaged = UserError(f"the weights in {file} are damaged, or timm or torchvision has changed this network since")
    with safetensors.safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 -- no mapping
        if not fits(shapes):
            raise damaged
        with torch.random.fork_rng(devices=[]):
            network = build()
        if shapes != {name: list(each.shape) for name, each in network.state_dict().items()}:
            raise damaged
        try:
            network.load_state_dict({name: opened.get_tensor(name) for name in shapes})
        except RuntimeError as error:
            raise damaged from error
    return network
