"""``--set path=value``: overrides of single settings."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

from coterie.config.kinds import KINDS, union_members
from coterie.config.renamed import RENAMED, RENAMED_VALUES
from coterie.config.schema import PretrainConfig
from coterie.config.toml import check_type
from coterie.config.wanted import inline, wanted
from coterie.errors import BadConfig, did_you_mean


def parse_settings(settings: Sequence[Any] | Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """Read overrides in order: texts as those of ``--set``, or a dictionary of Python's own values by path.

    Raises:
        BadConfig: a text without an equals sign, or a path that is no text.
    """
    if isinstance(settings, str):
        settings = [settings]
    for path in settings:
        if not isinstance(path, str):
            raise BadConfig(f'settings: {path!r} is not the path of a setting; write it as in {{"groups.counts": 300}}')
    if not isinstance(settings, Mapping):
        return [parse_override(text) for text in settings]
    return [(path.strip(), _plain(value)) for path, value in settings.items()]


def _plain(value: Any) -> Any:
    """A value as it would be in TOML: lists in place of tuples, plain numbers in place of numpy's, texts in place of paths."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, PurePath):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``path=value``; the value is read as TOML, a bare word as a string, ``none`` as None.

    Raises:
        BadConfig: there is no equals sign.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise BadConfig(f"--set {text}: write path=value, such as --set groups.counts=300")
    return path.strip(), _value(value.strip())


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def set_path(settings: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at ``path``, in place; None removes it, but is the word ``none`` for a setting that is a text.

    An entry of a list that is removed leaves a shorter list: ``views.crops.1=none`` drops a group of crops.

    Raises:
        BadConfig: there is no such setting, it takes another type of value, or it cannot be left out.
    """
    if path in RENAMED:
        raise BadConfig(f"--set {path}: this setting is now called {RENAMED[path]}")
    if isinstance(value, str) and value in RENAMED_VALUES.get(path, {}):
        raise BadConfig(f"--set {path}={value}: this value is now called {RENAMED_VALUES[path][value]}")
    known = known_kinds(settings)
    if path not in known:
        raise BadConfig(
            f"--set {path}: {_of_other_kinds(path, known, settings) or 'there is no such setting' + did_you_mean(path, known)}"
        )
    kind = known[path]
    if value is None and kind is str:  # backbone.trainable=none
        value = "none"
    if value is not None:
        _check_value(kind, path, value, value_at(settings, path))
    *parents, name = path.split(".")
    place: Any = settings
    for part in parents:
        _refuse_unless_in(place, part, path)
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    _refuse_unless_in(place, name, path)
    if isinstance(place, list) and value is not None:
        place[int(name)] = value
    elif isinstance(place, list) and _any_length(known[".".join(parents)]):
        del place[int(name)]
    elif name == "kind" and place.get("kind") != value:  # another kind has other settings: start from its defaults
        kept = {"counts": place["counts"]} if "counts" in place and _has_counts(value) else {}
        place.clear()
        place.update({name: value} | kept)
    elif value is not None:
        place[name] = value
    elif type(None) in union_members(kind):
        place.pop(name, None)
    else:
        raise BadConfig(f"--set {path}=none: this setting cannot be left out; {wanted(kind, path)}")


def _of_other_kinds(path: str, known: Mapping[str, Any], settings: dict[str, Any]) -> str:
    """What to say of a setting that other kinds of the same part have; empty of any other."""
    part, _, name = path.rpartition(".")
    if f"{part}.kind" not in known:
        return ""
    tables = [each for each in union_members(known[part]) if isinstance(each, type) and is_dataclass(each)]
    having = [KINDS[each] for each in tables if name in {field.name for field in fields(each)}]
    if not having:
        return ""
    kinds = " or ".join(repr(each) for each in having)
    return f"{part}.kind is {value_at(settings, part + '.kind')!r}; set it to {kinds} before, which has such a setting"


def _check_value(kind: Any, path: str, value: Any, present: Any) -> None:
    """Refuse a value of another type than the setting's, with an example of what it takes."""
    why = check_type(kind, path, value)
    if why is not None:
        why = "" if type(value) is str or not isinstance(value, list) else f"{why}; "
        choice = did_you_mean(value, get_args(kind)) if get_origin(kind) is Literal and isinstance(value, str) else ""
        raise BadConfig(f"--set {path}={inline(value)}: {why}{wanted(kind, path, present)}{choice}")


def value_at(settings: Any, path: str) -> Any:
    """The present value at ``path``; None if there is none."""
    for part in path.split("."):
        if isinstance(settings, list) and part.isdecimal() and int(part) < len(settings):
            settings = settings[int(part)]
        else:
            settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _any_length(kind: Any) -> bool:
    """Whether a list of this kind may become shorter."""
    return any(get_origin(each) is tuple and get_args(each)[-1] is ... for each in union_members(kind))


def _has_counts(kind: Any) -> bool:
    return any(tag == kind and any(each.name == "counts" for each in fields(table)) for table, tag in KINDS.items())


def _refuse_unless_in(place: Any, part: str, path: str) -> None:
    inside = part.isdecimal() and int(part) < len(place) if isinstance(place, list) else isinstance(place, dict)
    if not inside:
        raise BadConfig(f"--set {path}: {place!r} has no entry {part}")


def known_paths(settings: Mapping[str, Any]) -> list[str]:
    """Every path that ``--set`` may name, given the number of crops and the kinds in ``settings``."""
    return list(known_kinds(settings))


def known_kinds(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The type of each path that ``--set`` may name."""
    found: dict[str, Any] = {}

    def walk(kind: Any, value: Any, path: str) -> None:
        if path:
            found[path] = kind
        kinds = [each for each in union_members(kind) if isinstance(each, type) and is_dataclass(each)]
        if len(kinds) > 1:
            tag = value.get("kind") if isinstance(value, Mapping) else None
            found[f"{path}.kind"] = Literal[tuple(KINDS[each] for each in kinds)]
            kinds = [each for each in kinds if KINDS[each] == tag]
        for each in kinds:
            hints = get_type_hints(each)
            for field in fields(each):
                inner = value.get(field.name) if isinstance(value, Mapping) else None
                walk(hints[field.name], inner, f"{path}.{field.name}".lstrip("."))
        if isinstance(value, (list, tuple)):
            item = next((argument for member in union_members(kind) for argument in get_args(member)), Any)
            for number, inner in enumerate(value):
                walk(item, inner, f"{path}.{number}")

    walk(PretrainConfig, settings, "")
    return found
