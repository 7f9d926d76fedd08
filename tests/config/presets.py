"""Settings of a preset with some of them overridden, for the tests of this room."""

from typing import Any

from coterie.config.facts import Facts
from coterie.config.overrides import parse_override, set_path
from coterie.config.toml import to_dict
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS

SMALL = Facts(images=50_000, side=32)


def changed(*overrides: str, method: str = "swav", facts: Facts = SMALL) -> dict[str, Any]:
    """The settings of a preset, for small images unless others are given, with overrides as of ``--set``."""
    settings = to_dict(METHODS[method](Planner(facts)))
    for override in overrides:
        set_path(settings, *parse_override(override))
    return settings


def smog(*overrides: str) -> dict[str, Any]:
    """The settings of SMoG as published, with a momentum encoder and three heads."""
    return changed(*overrides, method="smog", facts=Facts(images=50_000, side=224))
