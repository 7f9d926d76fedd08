"""Other projects' names for the parts of a network, and timm's conversions of shapes."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm.models
from torch import Tensor, nn


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
    expected, what = network.state_dict(), []
    source: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    state = _filtered(network, dict(tensors))
    for key in (f"{name}.weight" for name in _names(source.get("first_conv"))):
        if key in state and key in expected and state[key].ndim == 4 and channels != 3 == state[key].shape[1]:
            state[key] = timm.models.adapt_input_conv(channels, state[key])
            what.append(f"the first convolution from 3 to {channels} channels")
    return Converted(state, tuple(what), tuple(f"{name}." for name in _names(source.get("classifier"))))


def _filtered(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
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


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
