"""Load pretrained weights into a backbone: public files, or those of a Coterie run."""

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
from coterie.paths import expand

# Parts of SwAV's official checkpoints other than the backbone
_NOT_BACKBONE = ("projection_head.", "prototypes.")


def load_weights(network: nn.Module, path: str | Path, channels: int) -> None:
    """Load the weights of a file into a timm network.

    Accepted are torchvision's and timm's names, the layouts that timm itself converts (for ViT and Swin also from another image
    size), SwAV's official checkpoints and the folder of a Coterie run. Heads and classifiers are ignored. If the file's first
    convolution reads RGB and the network other channels, it is converted as timm does (summed for one channel, repeated and
    rescaled for several).

    Args:
        network: a network of timm, changed in place.
        path: a file or run folder.
        channels: number of channels of the network's images.

    Raises:
        UserError: there is no such file, it has no weights, or they belong to another network; the line names the keys that
            differ.
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
    """Read the tensors of a weights file; only tensors and plain values are ever unpickled.

    Args:
        path: a ``.safetensors`` file, a file written by ``torch.save``, or a run folder.

    Returns:
        The tensors by name, without the prefixes that wrappers add (``module.``, ``_orig_mod.``), on the CPU.

    Raises:
        UserError: there is no such file, or it cannot be read as weights.
    """
    file = expand(path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"there are no weights at {file}")
    try:
        if file.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(file)
        else:
            content = read_torch_file(file, [argparse.Namespace])  # many public files store their options this way
    except Exception as error:
        raise UserError(
            f"{file} cannot be read as weights: it is damaged or compressed, or it contains other Python objects, which are "
            "never unpickled (save only its state_dict, preferably as .safetensors)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {_plain(str(key)): value for key, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{file} contains no weights")
    return state


def _as_timm_names_it(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert other layouts with timm's own function for this kind of network, if there is one."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with warnings.catch_warnings():  # about how timm indexes; a test checks that its result is right
        warnings.filterwarnings("ignore", "torch.searchsorted.*non-contiguous", UserWarning)
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
        try:
            converted: dict[str, Tensor] = convert(dict(state), network)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return state  # the keys of another network, which the caller reports
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
    """Describe the differences in words, or return "" if there are none; batch counters may be missing."""
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
