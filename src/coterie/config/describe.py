"""Describes a run in a few lines: a summary, and the automatic values with their reasons."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from coterie.config.overrides import value_at
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_dict
from coterie.grouping.batch_objective import BatchGroupsConfig

REQUESTED = ("requested", "set by you")
"""The reasons of values that the user chose; a run does not log these, as the user knows them."""


def summary(config: PretrainConfig, images: int, device: torch.device) -> str:
    """Summarize method, images, network, views, groups, memory, batch and length of a run in one line."""
    crops = " + ".join(f"{each.count}x{each.size}" for each in config.views.crops)
    memory = f", memory {config.memory.length}" if config.memory else ""
    end = f", to image {config.images}" if config.images is not None else ""
    groups = "the batch as groups"
    if not isinstance(config.groups, BatchGroupsConfig):
        groups = f"{'+'.join(map(str, config.groups.counts))} groups"
    return (
        f"{config.method}: {images} images, {config.backbone.name}, crops {crops}, {groups}{memory}, "
        f"batch {config.batch_size}, {config.epochs} epochs of {images // config.batch_size} steps{end} on {device}"
    )


def explain(config: PretrainConfig, reasons: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """List (path, value, reason) of each setting that has a reason, in the order of the schema.

    Args:
        config: the complete settings, which hold the values.
        reasons: the reason for each value, by the path of its setting.
    """
    settings = to_dict(config)
    order = {name: number for number, name in enumerate(settings)}
    paths = sorted(reasons, key=lambda path: order.get(path.partition(".")[0], len(order)))
    return [(path, _text(value_at(settings, path)), reasons[path]) for path in paths]


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, dict) and "size" in each for each in value):
        return " + ".join(f"{each['count']}x{each['size']}" for each in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
