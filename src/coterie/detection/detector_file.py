"""``detector.safetensors``: network, pyramid, heads, categories and preprocessing; a detector rebuilds itself from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final, get_args

import torch
from torch import nn

from coterie.detection.detector import ANCHORS, POOLED, DetectorKind, DetectorSettings, build_detector
from coterie.exporting.backbone_file import build_described, read_header
from coterie.exporting.built_file import load_built, refuse_own_network, save_built
from coterie.exporting.file_kinds import DETECTOR_HEADER, file_of
from coterie.exporting.model import Model
from coterie.paths import DETECTOR_FILE, expand

MOST_CATEGORIES, MOST_SIDES, LARGEST = 100_000, 100, 2**16


@final
@dataclass(frozen=True)
class Detector:
    """A trained detector, ready to use.

    Attributes:
        network: takes a list of images ``[C, H, W]`` in [0, 1] and returns ``boxes``, ``labels`` (from 1 on) and ``scores`` of
            each, of a Mask R-CNN ``masks``, as torchvision's do.
        model: the network below it, and how it can be built again.
        settings: of the detector.
        categories: names, in the order of its labels.
        numbers: the id of each category in COCO results.
        about: further facts, such as the MODEL that it was trained from.
    """

    network: nn.Module
    model: Model
    settings: DetectorSettings
    categories: tuple[str, ...]
    numbers: tuple[int, ...]
    about: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        return f"{self.settings.kind} of {len(self.categories)} categories on a {self.model.backbone.name}"


def new_detector(
    model: Model,
    settings: DetectorSettings,
    categories: tuple[str, ...],
    numbers: tuple[int, ...],
    device: torch.device | str,
    about: Mapping[str, str],
) -> Detector:
    """A detector with untrained heads over the network of a MODEL, from torch's global generator.

    Args:
        model: its network is used itself, not a copy.
        settings: of the detector.
        categories: names.
        numbers: ids of the categories.
        device: of the detector.
        about: facts for its file.

    Raises:
        BadConfig: the network is not one of timm's, or has no feature maps of several sizes.
    """
    refuse_own_network(model, "a detector")
    look = model.preprocessing
    network = build_detector(model.network, settings, len(categories), look.mean, look.std).to(device)
    return Detector(network, model, settings, categories, numbers, about)


def save_detector(folder: str | Path, detector: Detector) -> Path:
    """Write ``detector.safetensors`` into a folder, atomically.

    Args:
        folder: the folder, which is created if it is missing.
        detector: what to write.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written; its previous contents stay intact.
    """
    facts = {
        "settings": asdict(detector.settings),
        "categories": detector.categories,
        "numbers": detector.numbers,
        "about": dict(detector.about),
    }
    return save_built(expand(folder) / DETECTOR_FILE, DETECTOR_HEADER, detector.network, detector.model, facts)


def open_detector(path: str | Path, device: torch.device | str = "cpu") -> Detector:
    """Open a detector; the random number generators are not touched.

    Args:
        path: the folder that ``coterie train --boxes`` made, or its ``detector.safetensors``.
        device: of the detector.

    Raises:
        UserError: it is none, such as a run; or the file is damaged, in one line.
    """
    file = file_of(path, DETECTOR_FILE, "--boxes FILE")
    refusal = f"{file} is no detector: coterie train MODEL IMAGES --boxes FILE --out DETECTOR makes one"
    description, header = read_header(file, DETECTOR_HEADER, _check_types, refusal)
    settings = DetectorSettings(**header["settings"] | {"short_sides": tuple(header["settings"]["short_sides"])})
    categories, numbers = tuple(header["categories"]), tuple(header["numbers"])
    backbone = build_described(description, file)
    network = load_built(
        file,
        lambda: build_detector(backbone, settings, len(categories), description.mean, description.std),
        lambda shapes: _largest_fit(shapes, settings, len(categories)),
    )
    line = f"{path}: a detector ({settings.kind}) of {len(categories)} categories on a {description.backbone.name}"
    model = Model(
        str(path), backbone, description.backbone, description.image_size, description.preprocessing, lines=(line,)
    )
    about = {str(name): str(value) for name, value in header["about"].items()}
    return Detector(network.to(device).eval(), model, settings, categories, numbers, about)


def _check_types(header: Mapping[str, Any]) -> None:
    """Raise TypeError if a value does not have its type, or is out of range."""
    categories, numbers, settings = (header[name] for name in ("categories", "numbers", "settings"))
    named = isinstance(categories, list) and 1 <= len(categories) <= MOST_CATEGORIES
    named = named and all(isinstance(each, str) for each in categories) and len(set(categories)) == len(categories)
    named = named and isinstance(numbers, list) and len(numbers) == len(categories)
    named = named and all(type(each) is int for each in numbers) and isinstance(header["about"], dict)
    sides = settings["short_sides"]
    whole = isinstance(sides, list) and 1 <= len(sides) <= MOST_SIDES
    others = ("longest", "width", "hidden", "regions", "proposals")
    whole = whole and all(
        type(each) is int and 1 <= each <= LARGEST for each in (*sides, *(settings[name] for name in others))
    )
    known = settings["kind"] in get_args(DetectorKind) and settings.keys() == asdict(DetectorSettings()).keys()
    if not (named and whole and known):
        raise TypeError("a value of another type")


def _largest_fit(shapes: Mapping[str, list[int]], settings: DetectorSettings, categories: int) -> bool:
    """Whether the largest tensors of the heads are in a file: it cannot make us allocate much more than it holds."""
    width, hidden, classes = settings.width, settings.hidden, categories + 1
    wanted = {"backbone.pyramid.layer_blocks.0.0.weight": [width, width, 3, 3]}
    if settings.kind != "retinanet":
        wanted |= {"roi_heads.box_head.fc6.weight": [hidden, width * POOLED**2]}
        wanted |= {"roi_heads.box_head.fc7.weight": [hidden, hidden]}
        wanted |= {"roi_heads.box_predictor.cls_score.weight": [classes, hidden]}
        if settings.kind == "mask_rcnn":
            wanted |= {"roi_heads.mask_head.0.0.weight": [width, width, 3, 3]}
            wanted |= {"roi_heads.mask_predictor.mask_fcn_logits.weight": [classes, width, 1, 1]}
    else:
        wanted |= {"head.classification_head.cls_logits.weight": [ANCHORS * classes, width, 3, 3]}
    return all(shapes.get(name) == shape for name, shape in wanted.items())
