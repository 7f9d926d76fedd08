"""``segmenter.safetensors``: network, head and classes in one file; a segmenter rebuilds itself from them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final, get_args

import safetensors
import torch

from coterie.errors import BadConfig, UserError
from coterie.exporting.backbone_file import (
    WeightsDescription,
    build_described,
    read_header,
    rebuilt_settings,
    write_tensors,
)
from coterie.exporting.file_kinds import SEGMENTER_HEADER, file_of
from coterie.exporting.model import Model
from coterie.models.own_backbone import OwnBackbone
from coterie.paths import SEGMENTER_FILE, expand
from coterie.segmentation.classes import MOST_CLASSES, VALUES, Classes
from coterie.segmentation.heads import HeadKind
from coterie.segmentation.network import SegmentationNetwork, SegmenterSettings

LARGEST, MOST_BLOCKS = 2**16, 1000


@final
@dataclass(frozen=True)
class Segmenter:
    """A trained segmenter, ready to use.

    Attributes:
        network: takes a list of images ``[C, H, W]`` in [0, 1] and returns the scores of each class at each pixel, ``[B, K, H,
            W]``, padded at the right and at the bottom.
        model: the network below it, and how it can be built again.
        settings: of the segmenter.
        classes: names, and values in masks.
        about: further facts, such as the MODEL that it was trained from.
    """

    network: SegmentationNetwork
    model: Model
    settings: SegmenterSettings
    classes: Classes
    about: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return f"segmenter ({self.settings.head}) of {len(self.classes.names)} classes on a {self.model.backbone.name}"


def new_segmenter(
    model: Model,
    settings: SegmenterSettings,
    classes: Classes,
    device: torch.device | str,
    about: Mapping[str, str],
) -> Segmenter:
    """A segmenter with an untrained head over the network of a MODEL, from torch's global generator.

    Args:
        model: its network is used itself, not a copy.
        settings: of the segmenter.
        classes: names and values.
        device: of the segmenter.
        about: facts for its file.

    Raises:
        BadConfig: the network is not one of timm's, or has no feature maps.
    """
    if isinstance(model.network, OwnBackbone):
        raise BadConfig(
            f"a segmenter is built over a network of timm, and {model.name} is a {type(model.network.network).__name__}"
        )
    look = model.preprocessing
    network = SegmentationNetwork(model.network, settings, len(classes.names), look.mean, look.std).to(device)
    return Segmenter(network, model, settings, classes, about)


def save_segmenter(folder: str | Path, segmenter: Segmenter) -> Path:
    """Write ``segmenter.safetensors`` into a folder, atomically.

    Args:
        folder: the folder, which is created if it is missing.
        segmenter: what to write.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written; its previous contents stay intact.
    """
    model, look = segmenter.model, segmenter.model.preprocessing
    limits = look.value_range
    description = WeightsDescription(
        rebuilt_settings(model.backbone), model.image_size, look.mean, look.std, value_range=limits
    )
    header = {
        "backbone": asdict(description),
        "settings": asdict(segmenter.settings),
        "classes": asdict(segmenter.classes),
        "about": dict(segmenter.about),
    }
    file = expand(folder) / SEGMENTER_FILE
    write_tensors(file, segmenter.network.state_dict(), {"format": "pt", SEGMENTER_HEADER: json.dumps(header)})
    return file


def open_segmenter(path: str | Path, device: torch.device | str = "cpu") -> Segmenter:
    """Open a segmenter; the random number generators are not touched.

    Args:
        path: the folder that ``coterie train --masks`` made, or its ``segmenter.safetensors``.
        device: of the segmenter.

    Raises:
        UserError: it is none, such as a run; or the file is damaged, in one line.
    """
    file = file_of(path, SEGMENTER_FILE, "--masks DIR")
    refusal = f"{file} is no segmenter: coterie train MODEL IMAGES --masks DIR --out SEGMENTER makes one"
    description, header = read_header(file, SEGMENTER_HEADER, _check_types, refusal)
    settings = SegmenterSettings(**header["settings"] | {"blocks": tuple(header["settings"]["blocks"])})
    said = header["classes"]
    classes = Classes(tuple(said["names"]), tuple(said["values"]), tuple(said["ignored"]), said["where"])
    backbone = build_described(description, file)
    damaged = UserError(f"the weights in {file} are damaged, or timm or torchvision has changed this network since")
    with safetensors.safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 -- no mapping
        classifier = shapes.get("head.classifier.weight", [])
        if classifier[:1] != [len(classes.names)] or (
            settings.head != "linear" and classifier[1:2] != [settings.width]
        ):
            raise damaged  # it cannot make us allocate much more than it holds
        with torch.random.fork_rng(devices=[]):
            network = SegmentationNetwork(backbone, settings, len(classes.names), description.mean, description.std)
        if shapes != {name: list(each.shape) for name, each in network.state_dict().items()}:
            raise damaged
        try:
            network.load_state_dict({name: opened.get_tensor(name) for name in shapes})
        except RuntimeError as error:
            raise damaged from error
    model = Model(str(path), backbone, description.backbone, description.image_size, description.preprocessing)
    about = {str(name): str(value) for name, value in header["about"].items()}
    return Segmenter(network.to(device).eval(), model, settings, classes, about)


def _check_types(header: Mapping[str, Any]) -> None:
    """Raise TypeError if a value does not have its type, or is out of range."""
    classes, settings = header["classes"], header["settings"]
    names, values, ignored = (classes[name] for name in ("names", "values", "ignored"))
    named = isinstance(names, list) and 2 <= len(names) <= MOST_CLASSES and len(set(names)) == len(names)
    named = named and all(isinstance(each, str) for each in [*names, classes["where"]])
    named = named and isinstance(values, list) and len(values) == len(names) and isinstance(ignored, list)
    named = named and all(type(each) is int and 0 <= each < VALUES for each in [*values, *ignored])
    named = named and len({*values, *ignored}) == len(values) + len(ignored) and isinstance(header["about"], dict)
    blocks = settings["blocks"]
    whole = isinstance(blocks, list) and len(blocks) <= MOST_BLOCKS and all(type(each) is int for each in blocks)
    whole = whole and all(
        type(settings[name]) is int and 1 <= settings[name] <= LARGEST for name in ("width", "short_side", "longest")
    )
    known = settings["head"] in get_args(HeadKind) and settings.keys() == asdict(SegmenterSettings()).keys()
    if not (named and whole and known):
        raise TypeError("a value of another type")
