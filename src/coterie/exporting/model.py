"""A MODEL as users name it: a run, our weights or public ones; opened for use, with the preprocessing of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadConfig, UserError
from coterie.exporting.backbone_file import WEIGHTS, describe_backbone, is_own_file, load_backbone
from coterie.exporting.preprocessing import of_network, with_options
from coterie.logger import Logger, NullLogger
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.image_sizes import check_image_size
from coterie.models.pretrained import load_weights
from coterie.paths import expand

KINDS = (
    "a run's folder, a model.safetensors, a weights file with --backbone NAME, a folder of Hugging Face, or timm:NAME"
)
"""What a MODEL can be, in words."""


@dataclass(frozen=True)
class Model:
    """A trained network, ready to use.

    Attributes:
        name: the MODEL as it was given.
        network: images ``[B, C, H, W]`` to features ``[B, F]``, in evaluation mode.
        backbone: settings of the network, with which it can be built again; ``weights`` is None.
        image_size: side in pixels that the network is laid out for.
        preprocessing: how whole images are prepared for it.
        run: the run's folder, which holds groups and keeps results; None for anything else.
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


def open_model(
    model: str | Path,
    device: torch.device | str = "cpu",
    *,
    backbone: str | None = None,
    size: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    crop: float | None = None,
    interpolation: str | None = None,
    logger: Logger | None = None,
) -> Model:
    """Open a MODEL.

    Args:
        model: a run's folder; a ``model.safetensors`` or a snapshot; a weights file or a folder of Hugging Face, with
            ``backbone`` where it does not name its network; ``timm:NAME``; ``FILE#student`` where a file holds several.
        device: device of the network.
        backbone: timm's name of the network of a file that does not say it.
        size: side of the images in pixels; None: what the model says, as for the following.
        mean: of each channel, or one for all, for pixels in [0, 1].
        std: of each channel, or one for all.
        crop: share of the resized short side that is cropped.
        interpolation: how images are resized.
        logger: is told in one line what was taken, and in one how images are prepared.

    Raises:
        UserError: there is no such model, it does not fit the options, or it does not take this size, in one line.
    """
    logger = logger or NullLogger()
    options = {"size": size, "mean": mean, "std": std, "crop": crop, "interpolation": interpolation}
    opened = _open_own if is_own(model) else _open_public
    found, taken, origin = opened(str(model), backbone, options, device)  # type: ignore[operator]
    given = [name for name, value in options.items() if value is not None]
    logger.info(f"{model}: {taken}")
    said = f"{origin}; {', '.join(given)} from the options" if given else origin
    logger.info(f"images of {found.preprocessing} ({said})")
    return found


def is_own(model: str | Path) -> bool:
    """Whether a MODEL is a run or a file that Coterie wrote, or would have to be: there is nothing else of this name."""
    path = _base(str(model))
    if str(model).startswith("timm:"):
        return False
    if path.is_dir():
        return (path / "config.toml").is_file() or is_own_file(path / WEIGHTS)
    return is_own_file(path)


def refuse_backbone(model: str | Path, backbone: str | None, own: str) -> None:
    """Refuse a --backbone that contradicts what a model says of itself.

    Args:
        model: as the user wrote it.
        backbone: the option.
        own: the name of the model's own network.

    Raises:
        BadConfig: they differ.
    """
    if backbone is not None and backbone.partition(".")[0] != own.partition(".")[0]:
        raise BadConfig(f"--backbone is {backbone}, but {model} is a {own}: leave out --backbone")


def _open_own(model: str, backbone: str | None, options: dict, device: torch.device | str) -> tuple[Model, str, str]:
    path, part = _base(model), _part(model)
    described = describe_backbone(path)
    refuse_backbone(model, backbone, described.backbone.name)
    if part and part != described.whose:
        raise UserError(f"{path} holds the weights of the {described.whose} only: leave out #{part}")
    settings, size = described.backbone, described.image_size
    look = with_options(Preprocessing(size, settings.channels, described.mean, described.std), **options)
    network = load_backbone(path).to(device)
    check_image_size(network, settings, look.size)
    run = path if path.is_dir() else None
    kind = "run" if run else "weights file"
    taken = f"{settings.name}, the {described.whose} of a {kind} of Coterie"
    return Model(model, network, settings, size, look, run), taken, "from the file"


def _open_public(model: str, backbone: str | None, options: dict, device: torch.device | str) -> tuple[Model, str, str]:
    path = _base(model)
    if not model.startswith("timm:"):
        if not path.exists():
            raise UserError(f"there is no {path}: name {KINDS}")
        if path.is_dir() and backbone is None and not (path / "config.json").is_file():
            raise UserError(f"{path} is a folder that holds no model: name {KINDS}")
    if backbone is None:
        raise UserError(
            f"{path} does not say what network it is for: name it with --backbone, such as --backbone resnet50"
        )
    settings = BackboneConfig(backbone)
    look, origin = of_network(backbone, settings.channels, path if path.is_dir() else None)
    look = with_options(look, **options)
    network = build_backbone(settings, look.size)
    load_weights(network, model, settings.channels)
    network = network.to(device).eval()
    check_image_size(network, settings, look.size)
    return Model(model, network, settings, look.size, look), f"{backbone}", origin


def _base(model: str) -> Path:
    """The path of a MODEL, without the part of a file that it may choose."""
    path = expand(model)
    return path if path.exists() or not _part(model) else expand(model.rpartition("#")[0])


def _part(model: str) -> str:
    """``student`` of ``FILE#student``; empty without, and for a path that has such a name itself."""
    return "" if expand(model).exists() else model.rpartition("#")[2] if "#" in model else ""
