"""``segmenter.safetensors``: network, head and classes in one file; a segmenter rebuilds itself from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final, get_args

import torch

from coterie.exporting.backbone_file import build_described, read_header
from coterie.exporting.built_file import load_built, refuse_own_network, save_built
from coterie.exporting.file_kinds import SEGMENTER_HEADER, file_of
from coterie.exporting.model import Model
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
    refuse_own_network(model, "a segmenter")
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
    facts = {
        "settings": asdict(segmenter.settings),
        "classes": asdict(segmenter.classes),
        "about": dict(segmenter.about),
    }
    return save_built(expand(folder) / SEGMENTER_FILE, SEGMENTER_HEADER, segmenter.network, segmenter.model, facts)


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
    count = len(classes.names)
    network = load_built(
        file,
        lambda: SegmentationNetwork(backbone, settings, count, description.mean, description.std),
        lambda shapes: _largest_fits(shapes, settings, count),
    )
    model = Model(str(path), backbone, description.backbone, description.image_size, description.preprocessing)
    about = {str(name): str(value) for name, value in header["about"].items()}
    return Segmenter(network.to(device).eval(), model, settings, classes, about)


def _largest_fits(shapes: Mapping[str, list[int]], settings: SegmenterSettings, classes: int) -> bool:
    classifier = shapes.get("head.classifier.weight", [])
    return classifier[:1] == [classes] and (settings.head == "linear" or classifier[1:2] == [settings.width])


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
