"""Says what a setting takes, with an example in the syntax of ``--set``."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from coterie.config.kinds import KINDS, union_members
from coterie.optim.schedule import Schedule

ONE = {
    bool: ("true or false", True),
    int: ("a whole number", 10),
    float: ("a number", 0.5),
    str: ("a text", "text"),
}
"""By type of one value, its description and an example."""
EXAMPLES = {
    "backbone.weights": "model.safetensors",
    "backbone.trainable": "last:2",
    "probe.train": ["labeled/train"],
    "probe.test": ["labeled/test"],
    "clip_grad_norm": 1.0,
}
"""Examples for settings whose type says too little."""
MANY = {int: "whole numbers", float: "numbers", str: "texts in quotes"}


def wanted(kind: Any, path: str, example: Any = None) -> str:
    """Say what the setting at ``path`` takes.

    Args:
        kind: its type.
        path: where it is.
        example: a good value of it, such as the present one; None: made up.

    Returns:
        ``"give whole numbers, such as groups.counts=300 or groups.counts=[300,300]"`` or the like.
    """
    example = EXAMPLES.get(path, example)
    members = [each for each in union_members(kind) if each is not type(None)]
    none = f", or {path}=none" if len(members) < len(union_members(kind)) else ""
    first = members[0]
    if get_origin(first) is Literal:
        return f"choose one of {', '.join(map(str, get_args(first)))}{none}"
    if kind == Schedule:
        return f"give a number, such as {path}=0.1, or a table, such as {path}={{kind='cosine',peak=0.1}}"
    if is_dataclass(first):
        return f"{_wanted_table(members, path)}{none}"
    if get_origin(first) is tuple:
        return f"{_wanted_list(first, path, example)}{none}"
    what, plain = ONE[first]
    return f"give {what}, such as {path}={inline(plain if type(example) is not first else example)}{none}"


def _wanted_table(members: list[Any], path: str) -> str:
    if len(members) > 1:
        kinds = [KINDS[each] for each in members]
        return f"give a table, such as {path}={{kind='{kinds[0]}'}}, or set {path}.kind to one of {', '.join(kinds)}"
    hints = get_type_hints(members[0])
    field = next((each for each in fields(members[0]) if _example(path, each, hints) is not None), None)
    if field is None:
        return f"give a table of settings, or one of them, such as {path}.{fields(members[0])[0].name}"
    good = _example(path, field, hints)
    inner, alone = f"{field.name}={inline(good, inside=True)}", f"{field.name}={inline(good)}"
    return f"give a table of settings, such as {path}={{{inner}}}, or one of them, such as {path}.{alone}"


def _example(path: str, field: Field[Any], hints: Mapping[str, Any]) -> Any:
    """A good value of a setting in a table; None if there is none that is plain."""
    if f"{path}.{field.name}" in EXAMPLES:
        return EXAMPLES[f"{path}.{field.name}"]
    if field.default is MISSING:
        return ONE[hints[field.name]][1] if hints[field.name] in ONE else None
    return field.default


def _wanted_list(kind: Any, path: str, example: Any) -> str:
    item, *more = get_args(kind)
    if is_dataclass(item):
        return f"give a list of tables, or one of their settings, such as {path}.0.{fields(item)[0].name}"
    if path.rpartition(".")[2] == "counts":
        return f"give whole numbers, such as {path}=300 or {path}=[300,300]"
    count = "" if more == [...] else f"{1 + len(more)} "
    good = isinstance(example, (list, tuple)) and len(example) > 0
    made_up = [ONE[item][1]] * (1 if more == [...] else 1 + len(more))
    return f"give a list of {count}{MANY[item]}, such as {path}={inline(example if good else made_up)}"


def inline(value: Any, *, inside: bool = False) -> str:
    """A value as it is written after ``--set path=``: as inline TOML, a text without quotes unless it is ``inside``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if inside else value
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}={inline(each, inside=True)}' for name, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(inline(each, inside=True) for each in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
