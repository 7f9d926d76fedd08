"""Read the tensors of a MODEL: files and folders of any project, and timm's own weights."""

import json
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.models.nested_tensors import flat_tensors
from coterie.models.safe_load import read_torch_file
from coterie.models.timm_weights import TIMM, read_timm_weights
from coterie.paths import expand

_IN_A_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""What names of files of weights end in."""
_HALF = (torch.float16, torch.bfloat16)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")


@dataclass(frozen=True)
class WeightsFile:
    """What a MODEL holds, before a network is found in it.

    Attributes:
        name: the MODEL as messages name it, without the branch.
        tensors: all tensors, by the names that lead to them, on the CPU, in float32 at least.
        branch: the branch that was asked for: what follows ``#``; None: none.
        metadata: entries of a safetensors file beside the tensors.
        config: a folder's ``config.json``; empty if there is none.
    """

    name: str
    tensors: dict[str, Tensor]
    branch: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def read_weights(spec: str | Path) -> WeightsFile:
    """Read all tensors of a MODEL; only tensors and plain values are ever unpickled.

    Args:
        spec: a ``.safetensors`` file, a file written by ``torch.save``, a folder with one of them (a run's, or Hugging Face's,
            also in several parts), or ``timm:NAME``; ``#BRANCH`` after it chooses one of several networks.

    Raises:
        UserError: there is no such file, or it cannot be read as weights.
    """
    if str(spec).startswith(TIMM):
        return WeightsFile(str(spec), read_timm_weights(str(spec)))
    path, branch = split_branch(spec)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    tensors, metadata = _read_parts_of(file) if file.suffix == ".json" else _read_file(file)
    if not tensors:
        raise UserError(f"{file} contains no weights: there is not a single tensor in it")
    tensors = {name: each.float() if each.dtype in _HALF else each for name, each in tensors.items()}
    config = _config_beside(file) if file.name in _IN_A_FOLDER else {}
    return WeightsFile(str(path), tensors, branch, metadata, config)


def split_branch(spec: str | Path) -> tuple[Path, str | None]:
    """Split ``FILE#BRANCH``; a file whose own name has ``#`` is found first.

    Args:
        spec: a path, with or without a branch.

    Returns:
        The path, expanded, and the branch, or None.
    """
    path = expand(spec)
    before, hash_, branch = str(path).rpartition("#")
    if path.exists() or not hash_ or not Path(before).exists():
        return path, None
    return Path(before), branch


def _file_in(folder: Path) -> Path:
    for name in _IN_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    files = sorted(each for each in folder.iterdir() if each.name.endswith(ENDINGS) and each.is_file())
    if len(files) > 1:
        raise UserError(
            f"{folder} has several files of weights: name one of {first_few([each.name for each in files], ', ')}"
        )
    return files[0] if files else folder / _IN_A_FOLDER[0]


def _read_parts_of(index: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Read the files that an index of Hugging Face lists; they are in its own folder."""
    try:
        parts = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of weights: it has no weight_map") from error
    tensors: dict[str, Tensor] = {}
    for part in parts:
        if not isinstance(part, str) or not part.strip(".") or Path(part).name != part:
            raise UserError(f"{index} lists {str(part)[:100]!r}, which is not a file beside it")
        if not (index.parent / part).is_file():
            raise UserError(f"{index.parent / part} is missing, which {index.name} lists: copy or download it again")
        tensors |= _read_file(index.parent / part)[0]
    return tensors, {}


def _read_file(file: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    with file.open("rb") as opened:
        start = opened.read(512)
    if why := _not_weights(start):
        raise UserError(f"{file} cannot be read as weights: {why}")
    try:
        if start[8:9] == b"{":  # the length of a safetensors header comes first, whatever the file is called
            with safetensors.safe_open(file, "pt") as safe:
                return safetensors.torch.load_file(file), safe.metadata() or {}
        return flat_tensors(read_torch_file(file, foreign=True)), {}
    except Exception as error:
        raise UserError(f"{file} cannot be read as weights: {_why(file, error)}") from error


def _why(file: Path, error: Exception) -> str:
    """Say why torch did not read a file."""
    with suppress(Exception), zipfile.ZipFile(file) as packed:  # it may be damaged in any way
        if any(name.endswith("/constants.pkl") for name in packed.namelist()):
            return "it is a TorchScript program: save the state_dict of its network with torch.save"
    if "Unsupported operand" in str(error):
        return "it was pickled with a protocol that torch does not read safely: save it without pickle_protocol"
    return (
        "it is damaged or compressed, or it contains other Python objects, which are never unpickled (save only its "
        "state_dict, preferably as .safetensors)"
    )


def _not_weights(start: bytes) -> str | None:
    """Say what a file is instead, by how it begins."""
    if not start:
        return "it is empty"
    if start.startswith(_COMPRESSED):
        return "it is damaged or compressed: unpack it first"
    if re.match(rb"\s*<(!doctype|html)", start, re.IGNORECASE):
        return "it is a page of a web site, not the file: download it again"
    if b"oid sha256:" in start:
        return "it is a pointer of git-lfs, not the file: fetch it with git lfs pull"
    return None


def _config_beside(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((file.parent / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
