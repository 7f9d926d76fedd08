"""The settings of the network that a MODEL holds: its name from the file or the user, the rest from its tensors."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from coterie.errors import BadConfig, UserError
from coterie.models.backbone import BackboneConfig, build_backbone, is_resnet
from coterie.models.branches import Branch, choose_branch
from coterie.models.pretrained import differences, read_parts
from coterie.models.timm_weights import TIMM, timm_name
from coterie.models.weights_file import WeightsFile, read_weights
from coterie.types import Interpolation

# Networks that files without a name are compared with, and what names of their tensors look like, in any project's layout
_RESNETS = "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2".split()
_SWINS = [f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")]
_CONVNEXTS = [f"convnext_{size}" for size in ("tiny", "small", "base", "large")]
_FAMILIES = (
    (re.compile(r"((^|\.)(layer1|\d+)\.0\.conv1|\.0\.layers\.0\.layer\.0\.convolution)\.weight$"), _RESNETS),
    (re.compile(r"\.relative_position_bias_table$"), _SWINS),
    (
        re.compile(r"stages\.0\.(blocks\.|layers\.)?0\.(dwconv|conv_dw)\.weight$|features\.1\.0\.layer_scale$"),
        _CONVNEXTS,
    ),
)
_PATCHES = re.compile(r"(patch_embed(dings)?\.proj(ection)?|conv_proj)\.weight$")
_VIT_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


@dataclass(frozen=True)
class FoundBackbone:
    """The settings of a network in a file.

    Attributes:
        config: its settings; ``weights`` is None.
        image_size: side in pixels that it was trained at, as far as the file says; None: unknown.
        line: what was found, and in which part of the file.
        file: the file, which need not be read again to load it.
        mean: of each channel of the images that it was trained on, for pixels in [0, 1]; None: unknown.
        std: their standard deviation, likewise.
        interpolation: how whole images are resized for it.
    """

    config: BackboneConfig
    image_size: int | None
    line: str
    file: WeightsFile | None = field(default=None, repr=False, compare=False)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation = "bilinear"


def find_backbone(spec: str | Path, name: str | None = None) -> FoundBackbone:
    """Find the settings of the network that a MODEL holds.

    Args:
        spec: a run's folder, a file of weights, a folder of Hugging Face, or ``timm:NAME``; see
            :func:`~coterie.models.pretrained.load_weights`.
        name: timm's name of the network; None: from the file (ours, timm's or Hugging Face's), or from ``timm:NAME``.

    Raises:
        UserError: there is no such file, it does not say which network it is, or it is not the one named; in one line.
        BadConfig: the name is unknown.
    """
    file = read_weights(spec)
    own_name, size = _as_the_file_says(file)
    name = name or own_name
    if name is None:
        like = looks_like(file)
        raise UserError(
            f"{file.name} does not say which network it holds: name it with --backbone NAME"
            + (f" (it looks like --backbone {like})" if like else "")
        )
    branch, config = _settings(file, BackboneConfig(name))
    size = size or _size_of_positions(file.tensors, branch.prefix, blank_network(config))
    parts = read_parts(blank_network(config, size), file, config.channels)
    return FoundBackbone(config, size, f"{parts.line}; it is {_in_words(config)}", file)


def looks_like(file: WeightsFile) -> str | None:
    """Name the common network whose names and shapes a file has; a ResNet may have another width and stem.

    Args:
        file: a file that has been read.

    Returns:
        timm's name; None if it is none of the common ones.
    """
    of_another_width = None
    for name in _candidates(file.tensors):
        branch = choose_branch(file, blank_network(BackboneConfig(name)), 3, lambda each: each.names_fit).branch
        if branch.fits or (branch.names_fit and set(branch.shapes) <= {"pos_embed"}):
            return name
        if branch.names_fit and is_resnet(name):
            of_another_width = of_another_width or name
    return of_another_width


def _candidates(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in timm that a file's tensors may have: few, because to compare with one means to build it."""
    for sign, names in _FAMILIES:
        if any(sign.search(name) for name in tensors):
            return names
    patches = next((each for name, each in tensors.items() if _PATCHES.search(name) and each.ndim == 4), None)
    size = None if patches is None else _VIT_SIZES.get(patches.shape[0])
    if patches is None or size is None:
        return []
    start = f"vit_{size}_patch{patches.shape[-1]}"
    return [name for end in ("_224", "_dinov2", "_reg4_dinov2") if timm.is_model(name := start + end)]


def _as_the_file_says(file: WeightsFile) -> tuple[str | None, int | None]:
    """Name and image size as far as the file, or the folder's config.json, says them."""
    if file.name.startswith(TIMM):
        whole = timm_name(file.name)
        return whole.partition(".")[0], _timm_size(whole)
    for entry in ("coterie", "timm"):
        about = _json(file.metadata.get(entry))
        backbone = about.get("backbone", about)
        name = backbone.get("name") if isinstance(backbone, dict) else None
        if isinstance(name, str):
            return name, _size(about.get("image_size"))
    architecture, source = file.config.get("architecture"), file.config.get("pretrained_cfg")  # timm's folders
    if isinstance(architecture, str) and timm.is_model(architecture.partition(".")[0]):
        sides = source.get("input_size") if isinstance(source, dict) else None
        return architecture, _size(sides[-1] if isinstance(sides, list) and sides else None)
    if "model_type" in file.config:  # Hugging Face's: they name the kind of network only, which its tensors do too
        return looks_like(file), _size(file.config.get("image_size"))
    return None, None


def _settings(file: WeightsFile, config: BackboneConfig) -> tuple[Branch, BackboneConfig]:
    """The branch of a file, and the settings that its shapes have."""
    network = blank_network(config)
    if _has_mlp_batch_norm(file.tensors) and not _has_mlp_batch_norm(network.state_dict()):
        config = replace(config, mlp_norm="batch")
        network = blank_network(config)
    branch = choose_branch(file, network, 3, lambda each: each.fits).branch
    if not branch.fits:  # it may have another width, stem, image size or number of channels
        branch = choose_branch(file, network, 3, lambda each: each.names_fit).branch
    if not branch.names_fit:
        like = looks_like(file)
        hint = f"it looks like a {like}" if like and like != config.name else "check --backbone"
        raise UserError(f"{file.name} does not fit {config.name}: {differences(network, branch)}; {hint}")
    source: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    first = f"{source.get('first_conv')}.weight"
    if first not in branch.state or branch.state[first].ndim != 4:
        return branch, config
    expected, found = network.state_dict()[first], branch.state[first]
    if found.shape[1] != expected.shape[1]:
        config = replace(config, channels=int(found.shape[1]))
    if is_resnet(config.name) and first == "conv1.weight":
        config = replace(config, width=found.shape[0] / expected.shape[0])
        if found.shape[-1] == 3 and expected.shape[-1] == 7:
            config = replace(config, stem="small")
    return branch, config


def _has_mlp_batch_norm(names: Iterable[str]) -> bool:
    return any(re.search(r"norm2\.(batch_norm\.)?running_mean$", name) for name in names)


def blank_network(config: BackboneConfig, size: int | None = None) -> nn.Module:
    """The network without values, where it can be built that way.

    Args:
        config: its settings.
        size: side in pixels that it is laid out for; None: timm's.
    """
    size = size or _timm_size(config.name) or 224
    try:
        with torch.device("meta"):
            return build_backbone(config, size)
    except (BadConfig, NotImplementedError):  # some layers need real numbers
        with torch.random.fork_rng(devices=[]):
            return build_backbone(config, size)


def _size_of_positions(tensors: Mapping[str, Tensor], prefix: str, network: nn.Module) -> int | None:
    """The image size that a transformer's positions were laid out for."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    for name in ("pos_embed", "embeddings.position_embeddings", "encoder.pos_embedding"):
        positions = tensors.get(prefix + name)
        if positions is None or positions.ndim != 3 or not isinstance(patch, tuple):
            continue
        count = positions.shape[1]
        for extra in (0, 1, getattr(network, "num_prefix_tokens", 1)):
            if count > extra and math.isqrt(count - extra) ** 2 == count - extra:
                return math.isqrt(count - extra) * int(patch[0])
    return None


def _timm_size(name: str) -> int | None:
    if not timm.is_model(name.partition(".")[0]):
        return None
    source = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return int(source.input_size[-1]) if source is not None else None


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 2**15 else None


def _json(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _in_words(config: BackboneConfig) -> str:
    default = BackboneConfig()
    return ", ".join(
        [f"a {config.name}"]
        + [f"width {config.width:g}"] * (config.width != default.width)
        + ["small stem"] * (config.stem != default.stem)
        + [f"{config.channels} channels"] * (config.channels != default.channels)
        + ["batch norm before each MLP"] * (config.mlp_norm != default.mlp_norm)
    )
