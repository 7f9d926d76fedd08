"""``timm:NAME``: the weights that timm offers for its networks, from its cache or the network."""

import difflib
import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torch
from huggingface_hub import constants
from torch import Tensor

from coterie.errors import UserError, first_cause

TIMM = "timm:"
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


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
        near = difflib.get_close_matches(architecture, timm.list_models(), 3)
        hint = f"did you mean {', '.join(TIMM + each for each in near)}?" if near else "for example timm:resnet18"
        raise UserError(f"timm has no network {architecture!r}: {hint}")
    tags = [each for each in timm.list_pretrained(f"{architecture}*") if each.partition(".")[0] == architecture]
    if not tags:
        raise UserError(f"timm has no weights for {architecture}: name another network, or a file of weights")
    if name != architecture and name not in tags:
        near = list(dict.fromkeys([*difflib.get_close_matches(name, tags, 1), *tags]))
        raise UserError(f"timm has no weights {name}: it has {', '.join(TIMM + each for each in near[:6])}")
    return name


def read_timm_weights(spec: str) -> dict[str, Tensor]:
    """Read the weights of ``timm:NAME`` as timm loads them, under its names, with the classifier.

    The random number generators are not touched.

    Args:
        spec: ``timm:NAME``.

    Raises:
        UserError: timm has no such network or weights, or they are not in the cache and cannot be downloaded.
    """
    name = timm_name(spec)
    source = timm.get_pretrained_cfg(name)
    cached = _cached(source.hf_hub_id, source.hf_hub_filename) if source.hf_hub_id else None
    if source.hf_hub_id and cached is None and not _is_hub_reachable():
        raise _unavailable(spec, "there is no network")
    overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": cached}} if cached else {}
    try:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, pretrained=True, **overlay)
    except Exception as error:
        raise _unavailable(spec, re.sub(r"\w+://\S+", "the hub", first_cause(error))) from error
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors


def _cached(repository: str, file: str | None) -> str | None:
    """The file in the hub's cache: asking the hub first, as timm does, takes most of a minute without a network."""
    repository, _, revision = repository.partition("@")
    for each in (*_FILES, file) if file else _FILES:
        found = huggingface_hub.try_to_load_from_cache(repository, each, revision=revision or None)
        if isinstance(found, str):
            return found
    return None


def _is_hub_reachable() -> bool:
    """Whether a connection can be made at all; behind a proxy only the download itself shows that."""
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return True
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _unavailable(spec: str, why: str) -> UserError:
    return UserError(
        f"{spec} is not in the cache and cannot be downloaded ({why}): where there is a network, run python -c "
        f"\"import timm; timm.create_model('{spec.removeprefix(TIMM)}', pretrained=True)\" and copy the folder $HF_HOME "
        "(by default ~/.cache/huggingface) here; or name a file of the weights, with --backbone"
    )
