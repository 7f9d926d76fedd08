"""``--set path=value``: overrides of single settings."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, get_args, get_type_hints

from coterie.config.kinds import KINDS, OPTIONAL, union_members
from coterie.config.renamed import RENAMED, RENAMED_VALUES
from coterie.config.schema import PretrainConfig
from coterie.errors import BadConfig


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
        raise BadConfig(f"--set {text}: write path=value, for example --set groups.counts=300")
    return path.strip(), _value(value.strip())


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def set_path(settings: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at ``path``, in place; None removes it.

    Raises:
        BadConfig: there is no such setting, or it cannot be left out.
    """
    if path in RENAMED:
        raise BadConfig(f"--set {path}: this setting is now called {RENAMED[path]}")
    if isinstance(value, str) and value in RENAMED_VALUES.get(path, {}):
        raise BadConfig(f"--set {path}={value}: this value is now called {RENAMED_VALUES[path][value]}")
    known = known_paths(settings)
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
        raise BadConfig(f"--set {path}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    *parents, name = path.split(".")
    place: Any = settings
    for part in parents:
        _refuse_unless_in(place, part, path)
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    _refuse_unless_in(place, name, path)
    if isinstance(place, list):
        place[int(name)] = value
    elif name == "kind" and place.get("kind") != value:  # another kind has other settings: start from its defaults
        kept = {"counts": place["counts"]} if "counts" in place and _has_counts(value) else {}
        place.clear()
        place.update({name: value} | kept)
    elif value is not None:
        place[name] = value
    elif name in OPTIONAL:
        place.pop(name, None)
    else:
        raise BadConfig(f"--set {path}=none: this setting cannot be left out")


def _has_counts(kind: Any) -> bool:
    return any(tag == kind and any(each.name == "counts" for each in fields(table)) for table, tag in KINDS.items())


def _refuse_unless_in(place: Any, part: str, path: str) -> None:
    inside = part.isdecimal() and int(part) < len(place) if isinstance(place, list) else isinstance(place, dict)
    if not inside:
        raise BadConfig(f"--set {path}: {place!r} has no entry {part}")


def known_paths(settings: Mapping[str, Any]) -> list[str]:
    """Every path that ``--set`` may name, given the number of crops and the kinds in ``settings``."""
    paths: list[str] = []

    def walk(kind: Any, value: Any, path: str) -> None:
        if path:
            paths.append(path)
        kinds = [each for each in union_members(kind) if isinstance(each, type) and is_dataclass(each)]
        if len(kinds) > 1:
            tag = value.get("kind") if isinstance(value, Mapping) else None
            kinds = [each for each in kinds if KINDS[each] == tag]
            paths.append(f"{path}.kind")
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
    return paths
