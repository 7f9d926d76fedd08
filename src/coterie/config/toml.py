"""Settings as dictionaries and as TOML: read strictly, written completely."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import cattrs
import tomli_w
from cattrs.errors import AttributeValidationNote, IterableValidationNote
from cattrs.strategies import configure_tagged_union

from coterie.config.kinds import KINDS, union_members
from coterie.config.renamed import modernize
from coterie.config.rules import check_rules
from coterie.config.schema import AnyAssignment, AnyGroups, PretrainConfig
from coterie.config.wanted import wanted
from coterie.errors import BadConfig, did_you_mean
from coterie.grouping.regularizers import RegularizerConfig
from coterie.grouping.teacher import TargetConfig
from coterie.optim.optimizer import OptimizerConfig
from coterie.optim.schedule import Schedule
from coterie.paths import expand, run_folder


def _converter() -> cattrs.Converter:
    """A strict converter: no unknown keys, no conversion between types; ``kind`` selects the member of a union."""
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=False, detailed_validation=True)

    def read_number(value: Any, _: Any) -> float:
        if type(value) not in (float, int) or not math.isfinite(value):
            raise TypeError(f"{value!r} is not a number")
        return float(value)

    def read_exactly(kind: type, description: str) -> None:
        def read(value: Any, _: Any) -> Any:
            if type(value) is not kind:
                raise TypeError(f"{value!r} is not {description}")
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise TypeError("a whole number has at most 64 bits")
            return value

        converter.register_structure_hook(kind, read)

    read_exactly(bool, "true or false")
    read_exactly(int, "a whole number")
    converter.register_structure_hook(float, read_number)
    read_exactly(str, "a string in quotes")

    def read_choice(value: Any, kind: Any) -> Any:
        if value not in get_args(kind) or isinstance(value, bool):
            near = did_you_mean(value, get_args(kind)) if isinstance(value, str) else ""
            raise TypeError(f"{value!r} is not one of {', '.join(get_args(kind))}{near}")
        return value

    def is_choice(kind: Any) -> bool:
        return get_origin(kind) is Literal

    converter.register_structure_hook_func(is_choice, read_choice)
    for union in (Schedule, TargetConfig, AnyGroups, AnyAssignment, RegularizerConfig, OptimizerConfig):  # inner first
        configure_tagged_union(union, converter, tag_name="kind", tag_generator=KINDS.__getitem__)
    some: Any = RegularizerConfig
    optional = RegularizerConfig | None  # to cattrs a union of its own
    converter.register_structure_hook(optional, lambda value, _: converter.structure(value, some))
    converter.register_unstructure_hook(
        optional, lambda value: None if value is None else converter.unstructure(value, some)
    )
    return converter


_CONVERTER = _converter()


def to_dict(config: PretrainConfig) -> dict[str, Any]:
    """Convert settings to nested dictionaries of plain values, without those that are None."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if each is not None}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    result: dict[str, Any] = plain(_CONVERTER.unstructure(config))
    return result


def from_dict(settings: Mapping[str, Any]) -> PretrainConfig:
    """Read settings strictly from nested dictionaries.

    Raises:
        BadConfig: names the path, the value and the rule.
    """
    settings = dict(settings)
    groups = settings.get("groups")
    if isinstance(groups, Mapping) and type(groups.get("counts")) is int:  # one number: one head
        settings["groups"] = {**groups, "counts": [groups["counts"]]}
    settings = _with_constant_schedules(PretrainConfig, settings)
    _check_shape(PretrainConfig, settings, "")
    try:
        config = _CONVERTER.structure(settings, PretrainConfig)
    except cattrs.BaseValidationError as error:
        raise BadConfig(_first_cause(error)) from None
    check_rules(config)
    return config


def _with_constant_schedules(kind: Any, value: Any) -> Any:
    """Replace each number where a schedule is expected by a constant schedule."""
    if kind == Schedule and type(value) in (int, float):
        return {"kind": "constant", "value": value}
    if not isinstance(value, Mapping):
        return value
    tables = [each for each in union_members(kind) if isinstance(each, type) and is_dataclass(each)]
    hints: dict[str, Any] = {}
    for table in tables:
        if len(tables) == 1 or value.get("kind") == KINDS[table]:
            hints |= get_type_hints(table)
    return {name: _with_constant_schedules(hints.get(name), inner) for name, inner in value.items()}


def _check_shape(kind: Any, value: Any, path: str) -> None:
    """Check that there is a table or a list wherever one is expected, and that each kind exists."""
    types = [each for each in union_members(kind) if each is not type(None)]
    tables = [each for each in types if isinstance(each, type) and is_dataclass(each)]
    if tables:
        if not isinstance(value, Mapping):
            raise BadConfig(f"{path} is {value!r}: {wanted(kind, path)}")
        if len(tables) > 1:
            known = {KINDS[each]: each for each in tables}
            if value.get("kind") not in list(known):
                near = did_you_mean(str(value.get("kind")), known)
                raise BadConfig(f"{path}.kind is {value.get('kind')!r}: choose one of {', '.join(known)}{near}")
            tables = [known[value["kind"]]]
        hints = get_type_hints(tables[0])
        for name, inner in value.items():
            if name in hints:
                _check_shape(hints[name], inner, f"{path}.{name}".lstrip("."))
    elif get_origin(types[0]) is tuple:
        items = get_args(types[0])
        if not isinstance(value, (list, tuple)):
            raise BadConfig(f"{path} is {value!r}: {wanted(kind, path)}")
        if items[-1] is not ... and len(value) != len(items):
            raise BadConfig(f"{path} has {len(value)} of {len(items)} values: {wanted(kind, path)}")
        for number, inner in enumerate(value):
            _check_shape(items[0], inner, f"{path}.{number}")


def check_type(kind: Any, path: str, value: Any) -> str | None:
    """Why a value cannot be that of the setting at ``path``; None if it can, or if it is a table, which is checked as a whole.

    Args:
        kind: the type of the setting.
        path: of the setting; ``groups.counts`` may be one number.
        value: a plain value, as TOML has it.
    """
    tables = any(is_dataclass(each) for each in union_members(kind))
    if tables:
        plain = isinstance(value, Mapping) or (kind == Schedule and type(value) in (int, float))
        return None if plain else f"{value!r} is not a table"
    if path == "groups.counts" and type(value) is int:
        value = [value]
    for items in (get_args(each) for each in union_members(kind) if get_origin(each) is tuple):
        if not isinstance(value, list):  # cattrs would take a string apart
            return f"{value!r} is not a list"
        if items[-1] is not ... and len(value) != len(items):
            return f"there are {len(value)} of {len(items)} values"
    try:
        _CONVERTER.structure(value, kind)
    except cattrs.BaseValidationError as error:
        return _first_cause(error, path)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def as_strings(value: Any, path: str) -> tuple[str, ...]:
    """Check that the value at ``path`` of a settings file is a list of strings.

    Raises:
        BadConfig: it is something else.
    """
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadConfig(f"{path} is {value!r}: give a list of strings")
    return tuple(value)


def to_toml(config: PretrainConfig) -> str:
    """Write settings as the text of a ``config.toml``."""
    return tomli_w.dumps(to_dict(config))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the settings in a file under their present names, not yet checked.

    Raises:
        BadConfig: there is no such file, or it is not TOML.
    """
    path = expand(path)
    try:
        return modernize(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BadConfig(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from None
    except (ValueError, RecursionError) as error:  # besides syntax errors: endless numbers, endless nesting
        raise BadConfig(f"{path} is not TOML: {error}") from None


def read_run_toml(run: str | Path) -> dict[str, Any]:
    """Read the settings of a run, not yet checked.

    Raises:
        BadRun: the folder does not exist, or does not hold a run.
    """
    return read_toml(run_folder(run) / "config.toml")


def _first_cause(error: BaseException, path: str = "") -> str:
    """The innermost of cattrs' nested errors, as one line with its path."""
    for inner in getattr(error, "exceptions", ()):
        step = path
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                step = f"{path}.{note.name}".lstrip(".")
            elif isinstance(note, IterableValidationNote):
                step = f"{path}.{note.index}".lstrip(".")
        return _first_cause(inner, step)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        extra = sorted(error.extra_fields)[0]
        allowed = [each.name for each in fields(error.cl)] if is_dataclass(error.cl) else []
        return f"{f'{path}.{extra}'.lstrip('.')}: there is no such setting{did_you_mean(extra, allowed)}"
    if isinstance(error, KeyError) and path:
        return f"{path}: this setting is missing"
    if isinstance(error, BadConfig):
        return str(error)
    return f"{path}: {error}"
