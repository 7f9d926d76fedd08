"""``model.safetensors``: a backbone's weights under timm's names, with all that is needed to rebuild it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from coterie.atomic import writing
from coterie.data.decoding.pixels import ValueRange
from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import BadConfig, UserError
from coterie.exporting.file_kinds import HEADER, refuse_classifier
from coterie.models.backbone import OWN, BackboneConfig, build_backbone, is_plain_timm, timm_arguments
from coterie.models.own_backbone import shown_name, users_module
from coterie.paths import expand, run_folder
from coterie.types import INTERPOLATIONS, Interpolation
from coterie.version import __version__

WEIGHTS = "model.safetensors"
_HALF_BYTES = 2


@final
@dataclass(frozen=True)
class WeightsDescription:
    """Metadata of a weights file.

    Attributes:
        backbone: settings of the network; ``weights`` is None.
        image_size: side in pixels of the global views that it was trained on.
        mean: mean of each channel, which normalizes its images; pixels are in [0, 1].
        std: standard deviation of each channel.
        whose: student or teacher, whose weights these are.
        version: version of Coterie that wrote the file.
        extra: anything else that the writer added.
        interpolation: how whole images are resized for evaluation.
        crop: share of the resized short side that is cropped; None: as runs do it.
        size: side in pixels of the images that it sees in use; None: ``image_size``.
        value_range: lowest and highest value of images of floating-point, signed or 32-bit values; None: it takes none.
    """

    backbone: BackboneConfig
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whose: Literal["student", "teacher"] = "student"
    version: str = __version__
    extra: dict[str, str] = field(default_factory=dict)
    interpolation: Interpolation = "bilinear"
    crop: float | None = None
    size: int | None = None
    value_range: ValueRange | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """How whole images are prepared for the network."""
        size = self.image_size if self.size is None else self.size
        look = self.backbone.channels, self.mean, self.std, self.crop, self.interpolation, self.value_range
        return Preprocessing(size, *look)


def save_backbone(
    path: str | Path,
    backbone: nn.Module | Mapping[str, Tensor],
    config: BackboneConfig,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    interpolation: Interpolation = "bilinear",
    crop: float | None = None,
    size: int | None = None,
    value_range: ValueRange | None = None,
    whose: Literal["student", "teacher"] = "student",
    extra: Mapping[str, str] | None = None,
    half: bool = False,
) -> None:
    """Write a backbone to a file, atomically and with the mode that the umask gives.

    The metadata entry ``coterie`` is the :class:`WeightsDescription` as JSON. A network that timm builds alone (width 1,
    standard stem, its own norms) also loads with ``timm.create_model(name, checkpoint_path=path, **arguments)``; the entry
    ``timm`` holds both.

    Args:
        path: the file, usually ``model.safetensors`` in a run folder.
        backbone: the network or its state dict.
        config: settings that it was built with.
        image_size: side in pixels of the global views that it was trained on.
        mean: mean of each channel; pixels are in [0, 1].
        std: standard deviation of each channel.
        interpolation: how whole images are resized for evaluation.
        crop: share of the resized short side that is cropped; None: as runs do it.
        size: side in pixels of the images that it sees in use; None: ``image_size``.
        value_range: of images of floating-point, signed or 32-bit values.
        whose: student or teacher, whose weights these are.
        extra: further metadata.
        half: store the parameters of the network in bfloat16; its buffers, such as running statistics, stay as they are.

    Raises:
        UserError: the file cannot be written; the previous contents of ``path`` stay intact.
    """
    config = rebuilt_settings(config)
    description = WeightsDescription(
        config,
        image_size,
        tuple(mean),
        tuple(std),
        whose,
        extra=dict(extra or {}),
        interpolation=interpolation,
        crop=crop,
        size=size,
        value_range=value_range,
    )
    metadata = {"format": "pt", HEADER: json.dumps(asdict(description))}
    if is_plain_timm(config):
        arguments = timm_arguments(config, image_size)
        metadata["timm"] = json.dumps({"name": config.name, "arguments": arguments})
    write_tensors(path, _tensors(backbone, config, half=half), metadata)


def _tensors(backbone: nn.Module | Mapping[str, Tensor], config: BackboneConfig, *, half: bool) -> dict[str, Tensor]:
    """The tensors of a backbone as they are in its file."""
    prefix = "network." if config.name.startswith(OWN) else ""  # the user's module has its own names in the file
    network = backbone if isinstance(backbone, nn.Module) else None
    halved = {name for name, _ in network.named_parameters(remove_duplicate=False)} if half and network else set()
    return {
        name.removeprefix(prefix): value.bfloat16() if name in halved else value
        for name, value in (backbone.state_dict() if isinstance(backbone, nn.Module) else backbone).items()
    }


def rebuilt_settings(config: BackboneConfig) -> BackboneConfig:
    """The settings by which a network is built again; what a run did with it is in its ``config.toml``.

    Args:
        config: its settings in the run.
    """
    return replace(config, weights=None, trainable="all", frozen_statistics=False)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically and with the mode that the umask gives.

    Args:
        path: the file.
        tensors: on any device, in any layout; they may share memory.
        metadata: of its header.

    Raises:
        UserError: the file cannot be written; the previous contents of ``path`` stay intact.
    """
    copies = {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in tensors.items()}
    with writing(path) as part:
        try:
            safetensors.torch.save_file(copies, part, metadata)
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else 0, str(error)) from error


def load_backbone(path: str | Path, *, into: nn.Module | None = None) -> nn.Module:
    """Load the backbone of a run, in evaluation mode on the CPU.

    Its ``pretrained_cfg`` contains mean, standard deviation and image size, where timm's own tools find them;
    :func:`describe_backbone` returns them by name. The random number generators are not touched.

    Args:
        path: a run folder or its ``model.safetensors``.
        into: a module that takes the weights, and is returned in evaluation mode; needed if the run was given one as backbone.

    Returns:
        The network, which turns images ``[B, C, H, W]`` into features ``[B, F]``.

    Raises:
        UserError: there is no such file, it is damaged, Coterie did not write it, or the weights belong to another module.
    """
    description, file = describe_backbone(path), _file(path)
    if into is not None:
        check_fits(file, into)
        users_module(into).load_state_dict(safetensors.torch.load_file(file))
        return into.eval()
    if description.backbone.name.startswith(OWN):
        raise UserError(
            f"{file} holds the weights of {shown_name(description.backbone.name)}: give a module of it, as in "
            "coterie.load_backbone(path, into=module)"
        )
    network = build_described(description, file)
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"the weights in {file} are damaged, or timm has changed this network since") from error
    size = description.image_size
    network.pretrained_cfg |= {  # type: ignore[operator]
        "mean": description.mean,
        "std": description.std,
        "input_size": (description.backbone.channels, size, size),
        "interpolation": description.interpolation,
    }
    return network.eval()


def build_described(description: WeightsDescription, file: Path) -> nn.Module:
    """Build the network that a header describes; the random number generators are not touched.

    Args:
        description: the header.
        file: its file, which cannot be smaller than the network.

    Returns:
        The network, in training mode, with random weights.

    Raises:
        UserError: the file is too small for it, or there is no such network.
    """
    with torch.random.fork_rng(devices=[]):
        _refuse_too_small_a_file(description, file)
        return build_backbone(description.backbone, description.image_size)


def check_fits(file: Path, backbone: nn.Module) -> None:
    """Check that the weights in a file are those of a module, by names and shapes.

    Args:
        file: a ``model.safetensors``; nothing is checked if there is none.
        backbone: the module, or one in which it is wrapped.

    Raises:
        UserError: a weight is missing in one of them, or has another shape.
    """
    if not file.is_file():
        return
    module = users_module(backbone)
    wanted = {name: list(each.shape) for name, each in module.state_dict().items()}
    try:
        with safetensors.safe_open(file, "pt") as opened:
            held = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 -- no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a complete safetensors file: copy or download it again") from error
    for name in [*wanted, *held]:
        if wanted.get(name) != held.get(name):
            raise UserError(
                f"the weights in {file} are not those of this {type(module).__name__}: {name} is {held.get(name, 'missing')} "
                f"in the file and {wanted.get(name, 'missing')} in the module"
            )


def describe_backbone(path: str | Path) -> WeightsDescription:
    """Read the metadata of a weights file.

    Args:
        path: a run folder or its ``model.safetensors``.

    Returns:
        The settings of the network, the normalization of its images, and the origin of the weights.

    Raises:
        UserError: there is no such file, it is damaged, or Coterie did not write it.
    """
    refuse_classifier(path)
    file = _file(path)
    if not file.is_file():
        if file.suffix != ".safetensors" or expand(path).is_dir():
            run_folder(path, WEIGHTS)  # says what is wrong with it
        raise UserError(f"there is no {file}")
    metadata = read_metadata(file)
    if HEADER not in metadata:
        raise UserError(f"{file} was not written by Coterie: to start a run from it, use --start-from {file}")
    try:
        return parse_description(json.loads(metadata[HEADER]))
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise other_version(file) from error


def read_metadata(file: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file.

    Args:
        file: the file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safetensors.safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a complete safetensors file: copy or download it again") from error


def other_version(file: Path) -> UserError:
    """The error for a header of ours that this version cannot read.

    Args:
        file: whose header it is.
    """
    return UserError(f"{file} was written by another version of Coterie: read it with that version")


def read_header(
    file: Path, key: str, check: Callable[[Mapping[str, Any]], None], refusal: str
) -> tuple[WeightsDescription, dict[str, Any]]:
    """Read the header of a network with more on top, such as a classifier, checked: anyone may have written it.

    Args:
        file: the file.
        key: of the header in its metadata.
        check: raises TypeError or LookupError if the rest of the header is not as it has to be.
        refusal: the line about a file without it.

    Returns:
        The description of the network, ``backbone`` in the header, and the header.

    Raises:
        UserError: the file is damaged, has no such header, or one that this version cannot read.
    """
    metadata = read_metadata(file)
    if key not in metadata:
        raise UserError(refusal)
    try:
        header: dict[str, Any] = json.loads(metadata[key])
        description = parse_description(header["backbone"])
        check(header)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise other_version(file) from error
    return description, header


def parse_description(content: dict[str, Any]) -> WeightsDescription:
    """Check the description of a backbone from a header, which anyone may have written.

    Args:
        content: as ``asdict`` of a description makes it.

    Raises:
        LookupError, TypeError, ValueError: a value is missing, unknown or of another type.
    """
    content = dict(content)
    content["backbone"] = BackboneConfig(**content["backbone"])
    content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
    if content.get("value_range") is not None:
        content["value_range"] = tuple(content["value_range"])
    description = WeightsDescription(**content)
    _check_types(description)
    return description


def _check_types(description: WeightsDescription) -> None:
    """Raise TypeError if a value does not have its declared type: anyone can write a header."""
    backbone = description.backbone
    texts = (
        backbone.name,
        backbone.stem,
        backbone.mlp_norm,
        backbone.trainable,
        description.whose,
        description.version,
    )
    limits = description.value_range or (0.0, 1.0)
    numbers = (backbone.width, backbone.drop_path, *description.mean, *description.std, *limits)
    whole = all(type(each) is int and each > 0 for each in (backbone.channels, description.image_size))
    whole = whole and type(backbone.frozen_statistics) is bool and description.interpolation in INTERPOLATIONS
    crop, size = description.crop, description.size
    whole = whole and (crop is None or (type(crop) in (int, float) and 0 < crop <= 1))
    whole = whole and (size is None or (type(size) is int and 1 <= size < 2**31))
    finite = all(type(each) in (int, float) and abs(each) < 2**31 for each in numbers)
    named = isinstance(description.extra, dict) and all(isinstance(each, str) for each in (*texts, *description.extra))
    finite = finite and len(limits) == 2 and limits[0] < limits[1]
    one_a_channel = len(description.mean) == len(description.std) == backbone.channels
    if not (whole and finite and named and one_a_channel and backbone.weights is None):
        raise TypeError("a value of another type")


def _refuse_too_small_a_file(description: WeightsDescription, file: Path) -> None:
    """Refuse a file too small for its network before allocating memory; a network on the meta device takes none."""
    try:
        with torch.device("meta"):
            network = build_backbone(description.backbone, description.image_size)
    except (BadConfig, NotImplementedError):  # some layers need real numbers; whether it can be built shows later
        return
    least = (each.numel() * min(each.element_size(), _HALF_BYTES) for each in network.state_dict().values())
    if sum(least) > file.stat().st_size:
        raise UserError(f"the weights in {file} are damaged: there are fewer than {description.backbone.name} has")


def _file(path: str | Path) -> Path:
    path = expand(path)
    return path / WEIGHTS if path.is_dir() else path
