"""A MODEL as users name it: a run's folder or a ``model.safetensors``; opened for use, with its preprocessing."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.exporting.backbone_file import describe_backbone, load_backbone
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.paths import expand


@dataclass(frozen=True)
class Model:
    """A trained network, ready to use.

    Attributes:
        name: the MODEL as it was given.
        network: images ``[B, C, H, W]`` to features ``[B, F]``, in evaluation mode.
        backbone: settings of the network, with which it can be built again; ``weights`` is None.
        image_size: side in pixels that the network is laid out for.
        preprocessing: how whole images are prepared for it.
        run: the run's folder, which holds groups and keeps results; None for a file.
    """

    name: str
    network: nn.Module
    backbone: BackboneConfig
    image_size: int
    preprocessing: Preprocessing
    run: Path | None = None

    def untrained(self) -> nn.Module:
        """The same network with random weights, from torch's global generator."""
        return build_backbone(self.backbone, self.image_size)


def open_model(model: str | Path, device: torch.device | str = "cpu") -> Model:
    """Open a MODEL.

    Args:
        model: a run's folder or a ``model.safetensors``.
        device: device of the network.

    Raises:
        UserError: there is no such model, in one line.
    """
    described, path = describe_backbone(model), expand(model)
    backbone, size = described.backbone, described.image_size
    preprocessing = Preprocessing(size, backbone.channels, described.mean, described.std)
    network = load_backbone(model).to(device)
    return Model(str(model), network, backbone, size, preprocessing, path if path.is_dir() else None)
