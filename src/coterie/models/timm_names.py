"""Fit tensors of any project to a network of timm: names, image size, channels."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm.models
from torch import Tensor, nn

from coterie.models.other_names import translated

_PATCHES = "patch_embed.proj.weight"
_POSITIONS = ("pos_embed", "relative_position_bias_table")


@dataclass(frozen=True)
class Converted:
    """Tensors under timm's names.

    Attributes:
        state: the tensors; those of heads have their own names.
        what: in a few words each, what was renamed or converted.
        heads: prefixes of the network's own classifiers, which it does not take.
    """

    state: dict[str, Tensor]
    what: tuple[str, ...]
    heads: tuple[str, ...]


def as_timm_names_it(tensors: Mapping[str, Tensor], network: nn.Module, channels: int) -> Converted:
    """Convert a network's tensors to timm's names and to this network's image size and channels.

    Args:
        tensors: the tensors, without prefix.
        network: a network of timm.
        channels: number of channels of its images.
    """
    expected = network.state_dict()
    source: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    named, whose = translated(tensors)
    named = {_batch_norm_of(name, expected): tensor for name, tensor in named.items()}
    state = _filtered(network, named)
    what = [f"renamed from {each}" for each in whose]
    for name in named.keys() & state.keys() & expected.keys():
        if name.endswith(_POSITIONS) and state[name].shape != named[name].shape:
            what.append("resampled the positions to another image size")
        if name == _PATCHES:  # timm resamples them too, but a network with other patches is another network
            state[name] = named[name] if named[name].ndim == 4 else state[name]
        if _without_ones(state[name]) == _without_ones(expected[name]):
            state[name] = state[name].reshape(expected[name].shape)
    for name in (f"{each}.weight" for each in _names(source.get("first_conv"))):
        if name in state and name in expected and state[name].ndim == 4 and channels != 3 == state[name].shape[1]:
            state[name] = timm.models.adapt_input_conv(channels, state[name])
            what.append(f"converted the first convolution from 3 channels to {channels}")
    heads = tuple(f"{name}." for name in _names(source.get("classifier")))
    return Converted(state, tuple(dict.fromkeys(what)), heads)


def _filtered(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert other layouts with timm's own function for this kind of network, if there is one."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(state)
    if "register_tokens" in state:  # by its mask token timm knows a DINOv2; some files have none
        state = {"mask_token": state["register_tokens"], **state}
    with warnings.catch_warnings():  # about how timm indexes; a test checks that its result is right
        warnings.filterwarnings("ignore", "torch.searchsorted.*non-contiguous", UserWarning)
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
        try:
            converted: dict[str, Tensor] = convert(dict(state), network)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return dict(state)  # the keys of another network, which the caller reports
    return converted


def _batch_norm_of(name: str, expected: Mapping[str, Tensor]) -> str:
    """The batch norm before an MLP (SMoG, MoBY) is the norm itself in other programs, and inside ours."""
    block, found, rest = name.rpartition(".norm2.")
    inside = f"{block}.norm2.batch_norm.{rest.rpartition('.')[2]}"
    return inside if found and inside in expected else name


def _without_ones(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
