"""Parts of the user's own in place of those of the settings."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from coterie.config.options import RunOptions
from coterie.config.schema import PretrainConfig
from coterie.errors import BadConfig, UserError
from coterie.grouping.assignment import Assignment
from coterie.grouping.groups import Groups
from coterie.grouping.teacher import TargetNetwork
from coterie.models.own_backbone import own_name
from coterie.training.loop import ObjectiveLike
from coterie.training.student import Student

Part = TypeVar("Part")

PASS_AGAIN = (
    "pass the same coterie.CustomParts to coterie.pretrain(parts=...), and a backbone of your own as backbone=module"
)
"""What a message says about parts that are missing."""


@runtime_checkable
class TrainedObjective(ObjectiveLike, Protocol):
    """An objective that is a ``torch.nn.Module``, so that a run can move, save and restore it."""

    def to(self, device: torch.device) -> Any:
        """Move the module to a device."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the module."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""


@dataclass(frozen=True)
class CustomParts:
    """Parts of your own in place of those of the settings, for :func:`coterie.pretrain`; each is optional.

    A part that is a ``torch.nn.Module`` is copied, and the copy is trained, saved and restored with the run. Pass the same
    parts again to resume.

    Attributes:
        assignment: turns scores into targets (the protocol :class:`coterie.grouping.assignment.Assignment`).
        groups: a module that holds the centers (the protocol :class:`coterie.grouping.groups.Groups`); the optimizer updates
            its parameters.
        target: builds, from the student, the network whose embeddings become targets (the protocol
            :class:`coterie.grouping.teacher.TargetNetwork`).
        backbone: turns images into features; filled in by ``backbone=module`` (``docs/python.md``).
        objective: builds, from student and config, a complete objective: a module with the methods of
            :class:`coterie.training.loop.ObjectiveLike`. The targets in its results are optional; they must match the groups
            of the student, or those of the settings where it has none.

    Raises:
        UserError: a part lacks a method of its protocol, or is not a module where it must be one.
    """

    assignment: Assignment | None = None
    groups: Groups | None = None
    target: Callable[[Student], TargetNetwork] | None = None
    objective: Callable[[Student, PretrainConfig], TrainedObjective] | None = None
    backbone: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.assignment is not None:
            check_methods("assignment", self.assignment, Assignment)
        if self.groups is not None:
            check_methods("groups", self.groups, Groups)
            check_is_module("groups", self.groups)
        if self.backbone is not None:
            check_is_module("backbone", self.backbone)
        for name in ("target", "objective"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise UserError(f"CustomParts.{name} is {getattr(self, name)!r}: give a function that builds it")

    @property
    def names(self) -> tuple[str, ...]:
        """``part=class`` of each part, for ``config.toml``."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return tuple(f"{name}={_qualified_name(part)}" for name, part in parts.items() if part is not None)


def _qualified_name(part: object) -> str:
    if isinstance(part, partial):
        part = part.func
    named = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def check_methods(name: str, part: object, protocol: type) -> None:
    """Check that a part has the methods of its protocol.

    Raises:
        UserError: names the part and what it lacks.
    """
    members = {each for base in protocol.__mro__ for each in vars(base) if not each.startswith("_")}
    missing = sorted(each for each in members if not hasattr(part, each))
    if missing or not isinstance(part, protocol):
        lacks = ", ".join(missing) or "__call__"
        raise UserError(f"CustomParts.{name}: {_qualified_name(part)} has no {lacks}; see {_qualified_name(protocol)}")


def check_is_module(name: str, part: object) -> None:
    """Check that a part is a module.

    Raises:
        UserError: names the part.
    """
    if not isinstance(part, nn.Module):
        raise UserError(
            f"CustomParts.{name}: {_qualified_name(part)} must be a torch.nn.Module, to be saved with the run"
        )


def own_copy(part: Part) -> Part:
    """A copy of a part that training changes, so that a second run with the same parts starts from the same state."""
    return copy.deepcopy(part) if isinstance(part, nn.Module) else part


def take_backbone(options: RunOptions, parts: CustomParts | None = None) -> tuple[RunOptions, CustomParts | None]:
    """Turn a module that is given as backbone into a part of the user's own.

    Args:
        options: of a run; ``backbone`` may be a module.
        parts: other parts.

    Returns:
        The options with the name of the backbone, and the parts with the module.

    Raises:
        BadConfig: the backbone is neither a name nor a module.
    """
    given: Any = options.get("backbone") or (parts.backbone if parts is not None else None)
    if given is None or isinstance(given, str):
        return options, parts
    if not isinstance(given, nn.Module):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise BadConfig(f"backbone is {what}: give the name of a network of timm, or a torch.nn.Module")
    return {**options, "backbone": own_name(given)}, replace(parts or CustomParts(), backbone=given)


def with_custom_parts(config: PretrainConfig, parts: CustomParts | None) -> PretrainConfig:
    """The config of a run that records which parts are the user's own.

    Raises:
        BadConfig: the config was made with other parts of the user's own.
    """
    names = parts.names if parts is not None else ()
    if config.custom and config.custom != names:
        raise BadConfig(f"this config has custom parts ({', '.join(config.custom)}): {PASS_AGAIN}")
    return replace(config, custom=names)
