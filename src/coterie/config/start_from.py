"""What a new run starts from: ``--start-from``, and a tag of public weights in ``--backbone``, as settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from coterie.data.sources.open import absolute
from coterie.errors import BadConfig
from coterie.exporting.file_kinds import refuse_classifier
from coterie.exporting.model import with_preprocessing
from coterie.models.backbone_of_weights import FoundBackbone, find_backbone
from coterie.models.timm_weights import TIMM, timm_name
from coterie.models.weights_file import split_branch

NAME, WEIGHTS = "backbone.name", "backbone.weights"
FROM_TAG = "named with --backbone"
"""The reason of weights that a tag names."""


def absolute_model(spec: str) -> str:
    """A MODEL as it is found from any folder: ``timm:NAME`` as it is, a path absolute, with its ``#BRANCH``.

    Args:
        spec: a MODEL.
    """
    if spec.startswith(TIMM):
        return spec
    path, branch = split_branch(spec)
    return absolute(str(path)) + ("" if branch is None else f"#{branch}")


def plain_start(value: str | Path) -> str | None:
    """The setting that ``--start-from`` gives: a MODEL, or None for random weights.

    Args:
        value: MODEL or ``none``.
    """
    return None if str(value).lower() == "none" else str(value)


def named(path: str, requested: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]) -> Any:
    """What the user gives for a setting: the last ``--set`` of it, or the option; None: nothing.

    Args:
        path: of the setting.
        requested: values of options by the path of their setting.
        overrides: those of ``--set``.
    """
    return next((value for known, value in reversed(overrides) if known == path), requested.get(path))


def split_tag(
    requested: Mapping[str, Any], overrides: Sequence[tuple[str, Any]], saved: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, Any]], str | None]:
    """Take the tag out of the name of the network: ``resnet18.a1_in1k`` is short for timm's weights of that tag.

    Args:
        requested: values of options by the path of their setting.
        overrides: those of ``--set``.
        saved: the settings of the run that is resumed; one of an earlier version may have a tag in the name.

    Returns:
        The values of options and of ``--set``, and the MODEL that the tag stands for; None: there is no tag.

    Raises:
        BadConfig: there is a tag, and something else to start from.
        UserError: timm has no such weights.
    """
    name = named(NAME, requested, overrides)
    network, dot, _ = name.partition(".") if isinstance(name, str) else ("", "", "")
    if not dot or not timm.is_model(network) or value_is(saved, name):
        return dict(requested), list(overrides), None
    if WEIGHTS in requested or any(path == WEIGHTS for path, _ in overrides):
        raise BadConfig(f"--backbone {name} names weights by its tag: use --backbone {network} to start from others")
    model = f"{TIMM}{timm_name(TIMM + name)}"
    options = dict(requested) | ({NAME: network} if requested.get(NAME) == name else {})
    return options, [(path, network if (path, value) == (NAME, name) else value) for path, value in overrides], model


def value_is(saved: Mapping[str, Any], name: str) -> bool:
    """Whether saved settings have this name of a network, tag and all."""
    backbone = saved.get("backbone")
    return isinstance(backbone, Mapping) and backbone.get("name") == name


def find_start(requested: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]) -> FoundBackbone | None:
    """Find the network in the MODEL that a new run starts from, and the images it knows; None: it starts from random weights.

    Args:
        requested: values of options by the path of their setting.
        overrides: those of ``--set``.

    Raises:
        UserError: there is no such MODEL, or it does not say which network it holds.
    """
    model, name = named(WEIGHTS, requested, overrides), named(NAME, requested, overrides)
    if not isinstance(model, str):
        return None
    refuse_classifier(model)
    named_network = name if isinstance(name, str) else None
    return with_preprocessing(find_backbone(model, named_network), model, named_network)
