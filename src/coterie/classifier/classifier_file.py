"""``classifier.safetensors``: network, head, classes and preprocessing of a classifier; it rebuilds itself from them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.classifier.heads import Head, KnnHead, linear_head, probabilities
from coterie.errors import UserError
from coterie.exporting.backbone_file import (
    WeightsDescription,
    build_described,
    read_header,
    rebuilt_settings,
    write_tensors,
)
from coterie.exporting.file_kinds import CLASSIFIER_HEADER
from coterie.exporting.model import Model
from coterie.models.backbone import OWN, feature_width
from coterie.models.own_backbone import OwnBackbone, shown_name, wrap_backbone
from coterie.paths import CLASSIFIER_FILE, expand

MOST_CLASSES, MOST_NEIGHBORS = 1_000_000, 1_000_000
NETWORK, HEAD = "network.", "head."
"""Begin the names of the tensors in the file."""
Names = Mapping[str, list[int]]


@final
@dataclass(frozen=True)
class Classifier:
    """A trained classifier, ready to use.

    Attributes:
        model: the network, in evaluation mode, and how whole images are prepared for it.
        head: features ``[B, F]`` to logits ``[B, C]``, on the same device.
        classes: their names, in the order of the logits.
        multi_label: whether an image may have several labels: each class then has a probability of its own.
        temperature: logits are divided by it, so that probabilities are those of being right.
        threshold: an image whose largest probability is below it is ``unknown``; None: none is.
        about: further facts, such as the MODEL that it was trained from.
    """

    model: Model
    head: Head
    classes: tuple[str, ...]
    multi_label: bool = False
    temperature: float = 1.0
    threshold: float | None = None
    about: Mapping[str, str] | None = None

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b c"]:
        """The calibrated probability of each class.

        Args:
            features: of the network, on its device.
        """
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return probabilities(self.head(features), self.temperature, multi_label=self.multi_label)


def save_classifier(folder: str | Path, classifier: Classifier) -> Path:
    """Write ``classifier.safetensors`` into a folder, atomically.

    Args:
        folder: the folder, which is created if it is missing.
        classifier: what to write.

    Returns:
        The file.

    Raises:
        UserError: the file cannot be written; its previous contents stay intact.
    """
    model, head = classifier.model, classifier.head
    look = model.preprocessing
    backbone = rebuilt_settings(model.backbone)
    description = WeightsDescription(
        backbone,
        model.image_size,
        look.mean,
        look.std,
        interpolation=look.interpolation,
        crop=look.crop,
        size=look.size,
        value_range=look.value_range,
    )
    header = {
        "backbone": asdict(description),
        "head": _head_facts(head),
        "classes": classifier.classes,
        "multi_label": classifier.multi_label,
        "temperature": classifier.temperature,
        "threshold": classifier.threshold,
        "about": dict(classifier.about or {}),
    }
    states = {NETWORK: model.network.state_dict(), HEAD: head.state_dict()}
    tensors = {prefix + name: value for prefix, state in states.items() for name, value in state.items()}
    file = expand(folder) / CLASSIFIER_FILE
    write_tensors(file, tensors, {"format": "pt", CLASSIFIER_HEADER: json.dumps(header)})
    return file


def open_classifier(
    path: str | Path, device: torch.device | str = "cpu", *, backbone: nn.Module | None = None
) -> Classifier:
    """Open a classifier; the random number generators are not touched.

    Args:
        path: the folder that ``coterie train`` made, or its ``classifier.safetensors``.
        device: device of network and head.
        backbone: of a classifier whose backbone was given in Python, a module of it, which stays as it is.

    Raises:
        UserError: it is none, such as a run; or the file is damaged, in one line.
    """
    file = find_classifier(path)
    refusal = f"{file} is no classifier: coterie train {file} LABELED --out CLASSIFIER makes one from a MODEL"
    description, header = read_header(file, CLASSIFIER_HEADER, _check_types, refusal)
    if description.backbone.name.startswith(OWN):
        if backbone is None:
            raise UserError(
                f"{file} holds the weights of {shown_name(description.backbone.name)}: give a module of it, as in "
                "coterie.open_classifier(path, backbone=module)"
            )
        network: nn.Module = wrap_backbone(backbone, description.backbone, description.image_size)
    else:
        network = build_described(description, file)
    damaged = UserError(f"the weights in {file} are damaged, or timm has changed this network since")
    with safetensors.safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 -- no mapping
        classes = tuple(header["classes"])
        if not _fits(shapes, header["head"], len(classes), network):
            raise damaged
        tensors = {name: opened.get_tensor(name) for name in shapes}
    try:
        network.load_state_dict(_part(tensors, NETWORK))
        head = _head(header["head"], _part(tensors, HEAD), len(classes))
    except (IndexError, RuntimeError) as error:
        raise damaged from error
    look = description.preprocessing
    kind = header["head"]["kind"]
    taken = f"{path}: a classifier ({kind}) of {len(classes)} classes on a {description.backbone.name}"
    model = Model(
        str(path),
        network.to(device).eval(),
        description.backbone,
        description.image_size,
        look,
        lines=(taken, f"images: {look} (from the file)"),
    )
    about = {str(name): str(value) for name, value in header["about"].items()}
    settings = {name: header[name] for name in ("multi_label", "temperature", "threshold")}
    return Classifier(model, head.to(device).eval(), classes, about=about, **settings)


def find_classifier(path: str | Path) -> Path:
    """The file of a classifier.

    Args:
        path: of a folder, or of the file itself.

    Raises:
        UserError: there is none, in a line that says what the path is instead.
    """
    where = expand(path)
    file = where / CLASSIFIER_FILE if where.is_dir() else where
    if not file.is_file():
        if not where.exists():
            raise UserError(f"{path} does not exist: name a CLASSIFIER, which coterie train --out CLASSIFIER makes")
        what = "a run" if (where / "config.toml").is_file() else "no classifier"
        raise UserError(
            f"{path} is {what}: it has no {CLASSIFIER_FILE}; coterie train MODEL LABELED --out CLASSIFIER makes one"
        )
    return file


def _check_types(header: Mapping[str, Any]) -> None:
    """Raise TypeError if a value does not have its type, or is out of range."""
    classes, threshold, head = (header[name] for name in ("classes", "threshold", "head"))
    named = isinstance(classes, list) and 1 <= len(classes) <= MOST_CLASSES and len(set(classes)) == len(classes)
    named = named and all(isinstance(each, str) for each in classes) and isinstance(header["about"], dict)
    scaled = _number(header["temperature"]) and header["temperature"] > 0 and type(header["multi_label"]) is bool
    bounded = threshold is None or (_number(threshold) and 0 <= threshold <= 1)
    known = head["kind"] == "linear" or (
        head["kind"] == "knn"
        and type(head["k"]) is int
        and 1 <= head["k"] <= MOST_NEIGHBORS
        and _number(head["vote_temperature"])
        and head["vote_temperature"] > 0
    )
    if not (named and scaled and bounded and known):
        raise TypeError("a value of another type")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _head_facts(head: Head) -> dict[str, Any]:
    if isinstance(head, KnnHead):
        return {"kind": "knn", "k": head.k, "vote_temperature": head.vote_temperature}
    return {"kind": "linear"}


def _fits(shapes: Names, facts: Mapping[str, Any], classes: int, network: nn.Module) -> bool:
    """Whether the shapes of the tensors in a file are those of its network and head: nothing is allocated before."""
    width = network.num_features if isinstance(network, OwnBackbone) else feature_width(network)
    wanted = {NETWORK + name: list(each.shape) for name, each in network.state_dict().items()}
    if facts["kind"] == "linear":
        return dict(shapes) == wanted | {f"{HEAD}weight": [classes, width], f"{HEAD}bias": [classes]}
    voters, labels = shapes.get(f"{HEAD}voters", []), shapes.get(f"{HEAD}labels", [])
    if len(voters) != 2 or voters[0] < 1 or voters[1] != width or labels not in ([voters[0]], [voters[0], classes]):
        return False
    bias = {f"{HEAD}bias": [classes]} if f"{HEAD}bias" in shapes else {}
    return dict(shapes) == wanted | {f"{HEAD}voters": voters, f"{HEAD}labels": labels, **bias}


def _head(facts: Mapping[str, Any], state: Mapping[str, Tensor], classes: int) -> Head:
    """Rebuild a head.

    Raises:
        IndexError: a voter's class does not exist.
    """
    if facts["kind"] == "linear":
        return linear_head(state["weight"], state["bias"])
    voters, labels = state["voters"], state["labels"]
    if labels.is_floating_point() or int(labels.min()) < 0 or int(labels.max()) >= (classes if labels.ndim == 1 else 2):
        raise IndexError("a class that does not exist")
    knn = KnnHead(voters, labels, classes, facts["k"], facts["vote_temperature"], state.get("bias"))
    knn.load_state_dict(state)
    return knn


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
