"""Weights from a file into a backbone: public ones, or those of an own run."""

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm.models
from torch import Tensor, nn

from coterie.errors import UserError
from coterie.models.safe_load import read_torch_file

# What SwAV's own checkpoints hold besides the backbone.
_NOT_BACKBONE = ("projection_head.", "prototypes.")


def load_weights(network: nn.Module, path: str | Path, channels: int) -> None:
    """Fill a timm network with the weights of a file.

    Accepted: torchvision's and timm's names, the layouts that timm itself converts (for ViT and Swin also of another
    image size), SwAV's official checkpoints, an own run's folder. Heads and classifiers are left out. Where the file's
    first convolution reads RGB and the network other channels, it is converted as timm does (summed for one channel,
    repeated and rescaled for several).

    Raises:
        UserError: no such file, no weights in it, or weights of another network; the line names the differing keys.
    """
    state = read_weights(path)
    state = _as_timm_names_it(network, state)
    expected = network.state_dict()
    source: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    left_out = (*_NOT_BACKBONE, *(f"{name}." for name in _names(source.get("classifier"))))
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(left_out)}
    for key in (f"{name}.weight" for name in _names(source.get("first_conv"))):
        if key in state and key in expected and channels != 3 == state[key].shape[1]:
            state[key] = timm.models.adapt_input_conv(channels, state[key])
    if differences := _differences(expected, state):
        name = source.get("architecture", type(network).__name__)
        raise UserError(f"{path} does not fit {name}: {differences}; check backbone.name, .width, .stem and .mlp_norm")
    network.load_state_dict(state, strict=False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file or run folder by name, without the prefixes that wrappers add.

    Nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: no such file, or it cannot be read as weights.
    """
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    try:
        if file.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(file)
        else:
            content = read_torch_file(file, [argparse.Namespace])  # many public files hold their options so
    except Exception as error:
        raise UserError(
            f"{file} cannot be read as weights: it is damaged, it is compressed, or it holds other Python objects, "
            "which are never unpickled (save its state_dict alone, best as .safetensors)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {_plain(str(key)): value for key, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{file} holds no weights")
    return state


def _as_timm_names_it(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert other layouts by timm's own function for this kind of network, where there is one."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with warnings.catch_warnings():  # two about how timm indexes; a test watches that its result is right
        warnings.filterwarnings("ignore", "torch.searchsorted.*non-contiguous", UserWarning)
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
        try:
            converted: dict[str, Tensor] = convert(dict(state), network)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return state  # it stumbled over the keys of another network, which the caller reports
    return converted


def _plain(key: str) -> str:
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """In words, or "" if they agree; counters of batches are of no account."""
    missing = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    unknown = [key for key in found if key not in expected]
    shapes = [
        f"{key} is {_shape(found[key])} in the file and {_shape(value)} in the network"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    parts = [f"missing {_few(missing)}"] * bool(missing)
    parts += [f"not in the network {_few(unknown)}"] * bool(unknown)
    parts += [_few(shapes)] * bool(shapes)
    return "; ".join(parts)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _few(words: Iterable[str], count: int = 3) -> str:
    words = list(words)
    more = len(words) - count
    return ", ".join(words[:count]) + (f" and {more} more" if more > 0 else "")
