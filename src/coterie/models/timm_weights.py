"""``timm:NAME``: the weights that timm offers for its networks, from its cache or the network."""

import difflib

import timm
import torch
from torch import Tensor

from coterie.errors import UserError, first_cause

TIMM = "timm:"


def timm_name(spec: str) -> str:
    """The network and tag that ``timm:NAME`` names, checked.

    Args:
        spec: ``timm:NAME``; without a tag, timm's default.

    Raises:
        UserError: timm has no such network, or no weights for it.
    """
    name = spec.removeprefix(TIMM)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], 3)
        hint = f"did you mean {', '.join(TIMM + each for each in near)}?" if near else "use timm's names: timm:resnet18"
        raise UserError(f"timm has no network {architecture}: {hint}")
    tags = [each for each in timm.list_pretrained(f"{architecture}*") if each.partition(".")[0] == architecture]
    if not tags:
        raise UserError(f"timm has no weights for {architecture}: name another network, or a file of weights")
    if name != architecture and name not in tags:
        near = difflib.get_close_matches(name, tags, 1, 0) + tags
        raise UserError(f"timm has no weights {name}: it has {', '.join(dict.fromkeys(near[:6]))}")
    return name


def read_timm_weights(spec: str) -> dict[str, Tensor]:
    """Read the weights of ``timm:NAME`` as timm loads them, under its names, with the classifier.

    Args:
        spec: ``timm:NAME``.

    Raises:
        UserError: timm has no such network or weights, or they are not in the cache and cannot be downloaded.
    """
    name = timm_name(spec)
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise UserError(
            f"{spec} is neither in the cache nor can it be downloaded here ({first_cause(error)}): once, where there is a "
            f"network, run python -c \"import timm; timm.create_model('{name}', pretrained=True)\" and copy the cache "
            "($HF_HOME), or name a file of the weights and --backbone"
        ) from error
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors
