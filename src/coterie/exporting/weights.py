"""``model.safetensors``: a backbone's weights under timm's names, and all that is needed to build it again."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from coterie.atomic import writing
from coterie.errors import BadConfig, UserError
from coterie.models.backbone import BackboneConfig, build_backbone, is_plain_timm, timm_arguments
from coterie.version import __version__


@dataclass(frozen=True)
class Description:
    """What a file of weights says about itself.

    Attributes:
        backbone: which network; its ``weights`` is None.
        image_size: pixels of the global views that it was trained with.
        mean: per channel, of the normalization that its images need; pixels are in [0, 1].
        std: per channel.
        whose: the student's weights or the teacher's.
        version: of Coterie, when the file was written.
        extra: anything else that the writer wanted to say.
    """

    backbone: BackboneConfig
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whose: Literal["student", "teacher"] = "student"
    version: str = __version__
    extra: dict[str, str] = field(default_factory=dict)


def save_backbone(
    path: str | Path,
    backbone: nn.Module | Mapping[str, Tensor],
    config: BackboneConfig,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    whose: Literal["student", "teacher"] = "student",
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write the backbone, or its state, to a file, atomically and with the mode that the umask gives.

    The metadata entry ``coterie`` is the :class:`Description` as JSON. An unmodified network of timm (width 1, standard
    stem, norms of its own) also loads by ``timm.create_model(name, checkpoint_path=path, **arguments)``; the entry
    ``timm`` holds both.

    Raises:
        UserError: the file cannot be written; what was at ``path`` stays whole.
    """
    config = replace(config, weights=None)
    description = Description(config, image_size, tuple(mean), tuple(std), whose, extra=dict(extra or {}))
    metadata = {"format": "pt", "coterie": json.dumps(asdict(description))}
    if is_plain_timm(config):
        arguments = timm_arguments(config, image_size)
        metadata["timm"] = json.dumps({"name": config.name, "arguments": arguments})
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in (backbone.state_dict() if isinstance(backbone, nn.Module) else backbone).items()
    }
    with writing(path) as part:
        try:
            safetensors.torch.save_file(tensors, part, metadata)
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else 0, str(error)) from error


def load_backbone(path: str | Path) -> nn.Module:
    """Build the backbone of a run folder, or of its ``model.safetensors``, in evaluation mode.

    Its ``pretrained_cfg`` holds the mean, the deviation and the size, where timm's own tools look for them;
    :func:`describe_backbone` gives them by name. The random number generators are left as they were.

    Raises:
        UserError: no such file, a damaged one, or one that Coterie did not write.
    """
    description, file = describe_backbone(path), _file(path)
    with torch.random.fork_rng(devices=[]):
        _refuse_more_than_the_file_holds(description, file)
        network = build_backbone(description.backbone, description.image_size)
    try:
        network.load_state_dict(safetensors.torch.load_file(file))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"the weights in {file} are damaged, or timm has changed this network since") from error
    size = description.image_size
    network.pretrained_cfg |= {  # type: ignore[operator]
        "mean": description.mean,
        "std": description.std,
        "input_size": (description.backbone.channels, size, size),
    }
    return network.eval()


def describe_backbone(path: str | Path) -> Description:
    """Read what the file of a run folder, or a ``model.safetensors``, says about itself.

    Raises:
        UserError: no such file, a damaged one, or one that Coterie did not write.
    """
    file = _file(path)
    if not file.is_file():
        unsaved = " (not a run folder, or nothing is saved yet)" if file != Path(path) else ""
        raise UserError(f"there is no {file}{unsaved}")
    try:
        with safetensors.safe_open(file, "pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file") from error
    if "coterie" not in metadata:
        raise UserError(f"{file} was not written by Coterie: name it in backbone.weights to start from it")
    return _parse(metadata["coterie"], file)


def _parse(text: str, file: Path) -> Description:
    try:
        content: dict[str, Any] = json.loads(text)
        content["backbone"] = BackboneConfig(**content["backbone"])
        content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
        description = Description(**content)
        _check_types(description)
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{file} was written by another version of Coterie, which is needed to read it") from error
    return description


def _check_types(description: Description) -> None:
    """Raise TypeError where something is not of the type that the classes say: anybody may write a header."""
    backbone = description.backbone
    texts = (backbone.name, backbone.stem, backbone.mlp_norm, description.whose, description.version)
    numbers = (backbone.width, backbone.drop_path, *description.mean, *description.std)
    whole = all(type(each) is int and each > 0 for each in (backbone.channels, description.image_size))
    finite = all(type(each) in (int, float) and abs(each) < 2**31 for each in numbers)
    named = isinstance(description.extra, dict) and all(isinstance(each, str) for each in (*texts, *description.extra))
    one_a_channel = len(description.mean) == len(description.std) == backbone.channels
    if not (whole and finite and named and one_a_channel and backbone.weights is None):
        raise TypeError("a value of another type")


def _refuse_more_than_the_file_holds(description: Description, file: Path) -> None:
    """Before memory is taken for a network that cannot be in it; a network on the meta device takes none."""
    try:
        with torch.device("meta"):
            network = build_backbone(description.backbone, description.image_size)
    except (BadConfig, NotImplementedError):  # some layers want numbers; whether it can be built shows when it is
        return
    if sum(each.numel() * each.element_size() for each in network.state_dict().values()) > file.stat().st_size:
        raise UserError(f"the weights in {file} are damaged: they are fewer than {description.backbone.name} has")


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / "model.safetensors" if path.is_dir() else path
