"""The JSON schema of ``config.toml``, for editors that complete and check what they know the schema of."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import getdoc
from typing import Any, Literal, get_args, get_origin, get_type_hints

from coterie.config.kinds import KINDS, union_members
from coterie.config.schema import PretrainConfig
from coterie.optim.schedule import Constant, Schedule

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}
"""By Python type, the type in JSON."""


def config_schema() -> dict[str, Any]:
    """Describe every setting: its type, choices, default and meaning, as in the docstrings of the settings.

    What only a rule between settings refuses, such as more groups than the batch can balance, the schema lets pass.
    """
    tables: dict[str, Any] = {}
    found = _table(PretrainConfig, tables)
    return {"$schema": DIALECT, "title": "Settings of a Coterie run", **found, "$defs": dict(sorted(tables.items()))}


def _schema(kind: Any, tables: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; those of tables are added to ``tables``. None is left out: in TOML it is absence."""
    members = [each for each in union_members(kind) if each is not type(None)]
    if len(members) > 1:
        numbers = [{"type": "number", "description": "the same value at every step"}] if kind == Schedule else []
        return {"anyOf": [*numbers, *(_schema(each, tables) for each in members)]}
    (only,) = members
    if is_dataclass(only):
        name = str(getattr(only, "__name__", only))
        if name not in tables:
            tables[name] = _table(only, tables)
        return {"$ref": f"#/$defs/{name}"}
    if get_origin(only) is Literal:
        return {"enum": list(get_args(only))}
    if get_origin(only) is tuple:
        first, *more = get_args(only)
        items = {"type": "array", "items": _schema(first, tables)}
        return items if more == [...] else items | {"minItems": 1 + len(more), "maxItems": 1 + len(more)}
    return {"type": PLAIN[only]}


def _table(kind: Any, tables: dict[str, Any]) -> dict[str, Any]:
    """The schema of a table: of a dataclass, with its ``kind`` if it is one of several."""
    documents, hints = _attributes(kind), get_type_hints(kind)
    settings: dict[str, Any] = {}
    if kind in KINDS:
        settings["kind"] = {"const": KINDS[kind]}
    for field in fields(kind):
        setting = _schema(hints[field.name], tables)
        if field.name == "counts":
            one = {"type": "integer", "description": "the number of groups of one head"}
            setting = {"anyOf": [one, setting]}
        settings[field.name] = setting | _default(field) | _description(documents.get(field.name))
    needed = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    return {
        **_description((getdoc(kind) or "").partition("\n")[0]),
        "type": "object",
        "properties": settings,
        "required": [*(["kind"] if kind in KINDS else []), *needed],
        "additionalProperties": False,
    }


def _default(field: Field[Any]) -> dict[str, Any]:
    value = field.default
    if field.default_factory is not MISSING and isinstance(made := field.default_factory(), Constant):
        value = made.value
    if value is MISSING or value is None:
        return {}
    return {"default": list(value) if isinstance(value, tuple) else value}


def _description(text: str | None) -> dict[str, str]:
    plain = re.sub(r":\w+:`([^`]+)`", r"`\1`", text or "").replace("``", "`")
    return {"description": plain} if plain else {}


def _attributes(kind: Any) -> Mapping[str, str]:
    """The texts of the section ``Attributes`` of a docstring, by name."""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*\n?|\n)+)", getdoc(kind) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
