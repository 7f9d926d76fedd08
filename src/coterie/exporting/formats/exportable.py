"""What is exported, what a format has written of it, and what a format refuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from coterie.data.augmentation.cpu import normalize
from coterie.errors import UserError
from coterie.exporting.formats.transformers_layout import OtherNetworkError, transformers_layout
from coterie.exporting.model import Model
from coterie.models.backbone import OWN, is_plain_timm
from coterie.models.own_backbone import shown_name

Output = Literal["features", "logits", "probabilities"]
WEIGHTS_CONFIG = "config.json"


@dataclass(frozen=True)
class ExportHead:
    """What a classifier adds to a network.

    Attributes:
        module: features ``[B, F]`` to logits ``[B, C]`` whose softmax, or sigmoid, is the probability of each class.
        linear: weight ``[C, F]`` and bias ``[C]`` of one linear layer that gives the same logits; None: none does.
        classes: their names.
        multi_label: whether an image may have several: a sigmoid per class in place of the softmax.
        threshold: below this largest probability an image is of none of the classes; None: never.
        write: write the classifier's own file into a folder.
        read: open that folder again; the result turns normalized images ``[B, C, H, W]`` into logits.
    """

    module: nn.Module
    linear: tuple[Tensor, Tensor] | None
    classes: tuple[str, ...]
    multi_label: bool
    threshold: float | None
    write: Callable[[Path], None]
    read: Callable[[Path], Callable[[Tensor], Tensor]]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits ``[B, C]`` as probabilities."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)


@dataclass(frozen=True)
class Exportable:
    """A MODEL, with the head of a classifier if it is one.

    Attributes:
        model: in evaluation mode and float32, on the CPU.
        head: of a classifier; None: the network's features are exported.
    """

    model: Model
    head: ExportHead | None = None

    @property
    def name(self) -> str:
        """The network, for messages."""
        return shown_name(self.model.backbone.name).removeprefix("timm's ").removeprefix("a ")

    @property
    def logits_or_features(self) -> Output:
        """What formats without preprocessing return."""
        return "features" if self.head is None else "logits"

    def normalized(self, pixels: Tensor) -> Tensor:
        """Images ``[B, C, H, W]``, uint8 or float32 in [0, 1], as the network takes them."""
        return normalize(pixels, self.model.preprocessing.mean, self.model.preprocessing.std)

    def reference(self, pixels: Tensor, output: Output) -> Tensor:
        """What our own code computes from images ``[B, C, H, W]``, uint8 or float32 in [0, 1]."""
        with torch.inference_mode():
            features: Tensor = self.model.network(self.normalized(pixels))
            if self.head is None:
                return features
            logits: Tensor = self.head.module(features)
            return logits if output == "logits" else self.head.probabilities(logits)

    def about_classes(self) -> Mapping[str, object]:
        """Classes and threshold as plain values, for a configuration; empty if this is no classifier."""
        if self.head is None:
            return {}
        return {
            "classes": list(self.head.classes),
            "multi_label": self.head.multi_label,
            "threshold": self.head.threshold,
        }

    def refusal(self, library: str, why: str) -> UserError:
        """The error for a network that a library cannot hold; the line names formats that can."""
        linear = self.head is None or self.head.linear is not None
        formats = ["timm"] * (library != "timm" and linear and is_plain_timm(self.model.backbone))
        formats += ["transformers"] * (library != "transformers" and linear and self._in_transformers())
        formats += [each for each in ("onnx", "torch_export") if library != "torch.export"]
        return UserError(
            f"{library} cannot hold this {self.name}{' classifier' if self.head else ''}: {why}; use --format "
            f"{', '.join(formats)}{' or ' if formats else ''}safetensors"
        )

    def _in_transformers(self) -> bool:
        try:
            transformers_layout(self.model.network, self.model.backbone.channels)
        except OtherNetworkError:
            return False
        return True

    def refuse_own(self, library: str) -> None:
        """Refuse what only ONNX, torch.export and our own file hold.

        Raises:
            UserError: the network is a module of the user's own, or the head is not linear.
        """
        if self.model.backbone.name.startswith(OWN):
            raise self.refusal(library, "the network was given in Python")
        if self.head is not None and self.head.linear is None:
            raise self.refusal(library, "its head is not linear")


@dataclass(frozen=True)
class Written:
    """What a format has written, opened again.

    Attributes:
        library: the library that opened it, with its version.
        run: images ``[B, C, H, W]`` as uint8, or float32 in [0, 1], to what the library computes from them.
        output: what that is.
        tolerance: how far it may be from what our own code computes, as a share of the largest value.
        usage: Python that loads it; ``FOLDER`` is the folder, ``pixels`` are normalized images.
        any_size: whether it takes images of any size.
        bytes_in: whether it takes images as uint8 ``[B, H, W, C]``.
        inside: whether it normalizes images itself.
    """

    library: str
    run: Callable[[Tensor], Tensor]
    output: Output
    tolerance: float
    usage: str
    any_size: bool = True
    bytes_in: bool = False
    inside: bool = False
