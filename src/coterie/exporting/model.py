"""A MODEL as users name it: a run, our weights or public ones; opened for use, with the preprocessing of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadConfig, UserError
from coterie.exporting.backbone_file import WEIGHTS, describe_backbone, load_backbone
from coterie.exporting.file_kinds import is_own_file, refuse_classifier
from coterie.exporting.preprocessing import of_network, with_options
from coterie.logger import Logger
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import FoundBackbone, find_backbone
from coterie.models.image_sizes import check_image_size, refused_size
from coterie.models.own_backbone import OwnBackbone, own_name, wrap_backbone
from coterie.models.pretrained import load_weights
from coterie.models.timm_weights import TIMM, timm_name
from coterie.models.weights_file import ENDINGS, WeightsFile, split_branch

KINDS = (
    "a run's folder, a model.safetensors, a weights file with --backbone NAME, a folder of Hugging Face, or timm:NAME"
)
"""What a MODEL can be, in words."""
_FILES = (*ENDINGS, ".json")


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
        lines: what was taken, and how images are prepared, in a line each.
    """

    name: str
    network: nn.Module
    backbone: BackboneConfig
    image_size: int
    preprocessing: Preprocessing
    run: Path | None = None
    lines: tuple[str, ...] = ()

    def described(self, precision: str) -> tuple[str, ...]:
        """The same lines, with the precision of the network in the last."""
        return (*self.lines[:-1], f"{self.lines[-1]}; {precision}") if self.lines else ()

    def untrained(self) -> nn.Module:
        """The same network with random weights, from torch's global generator."""
        if isinstance(self.network, OwnBackbone):
            return self.network.untrained()
        return build_backbone(self.backbone, self.image_size)


def open_model(
    model: str | Path,
    device: torch.device | str = "cpu",
    *,
    backbone: str | nn.Module | None = None,
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
        backbone: timm's name of the network of a file that does not say it; of a run whose backbone was given in Python, a
            module of it, which stays as it is.
        size: side of the images in pixels; None: what the model says, as for the following.
        mean: of each channel, or one for all, for pixels in [0, 1].
        std: of each channel, or one for all.
        crop: share of the resized short side that is cropped.
        interpolation: how images are resized.
        logger: is told in one line what was taken, and in one how images are prepared.

    Raises:
        UserError: there is no such model, it does not fit the options, or it does not take this size, in one line.
    """
    options = {"size": size, "mean": mean, "std": std, "crop": crop, "interpolation": interpolation}
    opened = _open_own if is_own(model) else _open_public
    found, taken, origin = opened(str(model), backbone, options, device)
    given = [name for name, value in options.items() if value is not None]
    by_options = f"; {', '.join(given)} as given" if given else ""
    lines = (taken, f"images: {found.preprocessing} ({origin}{by_options})")
    if logger is not None:
        for line in lines:
            logger.info(line)
    return replace(found, lines=lines)


def open_beside(
    models: Sequence[str], device: torch.device | str, backbone: str | nn.Module | None, size: int | None
) -> tuple[Model, ...]:
    """Open MODELs that are compared with another.

    Args:
        models: their names.
        device: device of the networks.
        backbone: of weights files that do not say their network, as for the model that they are compared with.
        size: side of the images in pixels; None: what each model says.

    Raises:
        UserError: as for :func:`open_model`, or one is named twice.
    """
    if twice := [each for each in models if models.count(each) > 1]:
        raise BadConfig(f"--beside names {twice[0]} twice: name each model once")
    name = backbone if isinstance(backbone, str) else None
    named = ((each, name if is_public_file(each) else None) for each in models)
    return tuple(open_model(each, device, backbone=own, size=size) for each, own in named)


def is_own(model: str | Path) -> bool:
    """Whether a MODEL is a run, or a file of weights that Coterie wrote."""
    if str(model).startswith(TIMM):
        return False
    path, _ = split_branch(model)
    if path.is_dir():
        return (path / "config.toml").is_file() or is_own_file(path / WEIGHTS)
    return is_own_file(path)


def is_public_file(model: str | Path) -> bool:
    """Whether a MODEL is a weights file of another project, which may not say its network."""
    return not is_own(model) and split_branch(model)[0].is_file()


def _open_own(
    model: str, backbone: str | nn.Module | None, options: Mapping[str, Any], device: torch.device | str
) -> tuple[Model, str, str]:
    path, branch = split_branch(model)
    described = describe_backbone(path)
    settings, size = described.backbone, described.image_size
    named = own_name(backbone) if isinstance(backbone, nn.Module) else backbone
    if named is not None and named.partition(".")[0] != settings.name.partition(".")[0]:
        raise BadConfig(f"--backbone is {named}, but {path} is a {settings.name}: leave out --backbone")
    if branch is not None and branch != described.whose:
        raise UserError(f"{path} holds the weights of the {described.whose} only: leave out #{branch}")
    look = with_options(described.preprocessing, **options)
    own = wrap_backbone(backbone, settings, size) if isinstance(backbone, nn.Module) else None
    network = load_backbone(path, into=own).to(device)
    check_image_size(network, settings, look.size)
    run = path if path.is_dir() else None
    kind = "a run" if run else "a weights file of Coterie"
    return Model(model, network, settings, size, look, run), f"{path}: {kind}, a {settings.name}", "from the file"


def _open_public(
    model: str, backbone: str | nn.Module | None, options: Mapping[str, Any], device: torch.device | str
) -> tuple[Model, str, str]:
    refuse_classifier(model)
    if isinstance(backbone, nn.Module):
        raise BadConfig(
            f"backbone is a {type(backbone).__name__}, but {model} is no run of it: give the name of timm's network"
        )
    path, _ = split_branch(model)
    if not model.startswith(TIMM):
        if not path.exists():
            what = f"there is no {path}" if path.name.endswith(_FILES) else f"{path} does not exist"
            raise UserError(f"{what}: name {KINDS}")
        if path.is_dir() and not any(each.name.endswith(_FILES) for each in path.iterdir()):
            raise UserError(f"{path} is not a run's folder: it has no config.toml or {WEIGHTS}; name {KINDS}")
    elif backbone is not None and backbone.partition(".")[0] != timm_name(model).partition(".")[0]:
        raise BadConfig(f"--backbone is {backbone}, but the model is {model}: leave out --backbone")
    found = find_backbone(model, backbone)
    settings = found.config
    look, origin = _public_preprocessing(model, backbone, found)
    own_size, look = look.size, with_options(look, **options)
    network = _built(settings, found.file or model, look.size, own_size).to(device).eval()
    check_image_size(network, settings, look.size)
    return Model(model, network, settings, look.size, look), found.line, origin


def with_preprocessing(found: FoundBackbone, model: str, backbone: str | None) -> FoundBackbone:
    """Add how images are prepared for the network of a MODEL: the size, mean and standard deviation that its weights know.

    Args:
        found: the network of the MODEL.
        model: the MODEL.
        backbone: timm's name of the network, if a user named it.

    Raises:
        UserError: the configuration beside the weights is damaged.
    """
    if is_own(model):
        own = describe_backbone(split_branch(model)[0])
        return replace(found, image_size=own.image_size, mean=own.mean, std=own.std, interpolation=own.interpolation)
    look, _ = _public_preprocessing(model, backbone, found)
    return replace(found, image_size=look.size, mean=look.mean, std=look.std, interpolation=look.interpolation)


def _public_preprocessing(model: str, backbone: str | None, found: FoundBackbone) -> tuple[Preprocessing, str]:
    """How images are prepared for weights that Coterie did not write, and where that is from."""
    path, _ = split_branch(model)
    name = backbone or (timm_name(model) if model.startswith(TIMM) else found.config.name)
    look, origin = of_network(name, found.config.channels, path if path.is_dir() else path.parent)
    if found.image_size is not None and origin.startswith("timm"):
        look = replace(look, size=found.image_size)
    return look, origin


def _built(config: BackboneConfig, model: str | WeightsFile, size: int, own_size: int) -> nn.Module:
    """The network laid out for a size, with the weights of a MODEL; its positions are resized."""
    with torch.random.fork_rng(devices=[]):
        try:
            network = build_backbone(config, size)
        except BadConfig as error:
            raise refused_size(config, size) from error
    try:
        load_weights(network, model, config.channels)
    except UserError as error:
        if own_size == size:
            raise
        raise BadConfig(
            f"{config.name} does not take images of {size} pixels with these weights, which are laid out for {own_size}: "
            "leave out --size"
        ) from error
    return network
