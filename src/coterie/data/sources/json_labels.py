"""Labels in the ``.json`` files beside the images of tar shards (WebDataset)."""

import json
from collections.abc import Sequence
from typing import Any

from coterie.data.sources.columns import LABEL_NAMES, plain
from coterie.data.sources.label_values import single_labels


def json_label(text: str, key: str | None) -> Sequence[str]:
    """The labels in a JSON object.

    Args:
        text: the object.
        key: where they are: ``label``, or ``meta.class`` for the key ``class`` of the object ``meta``; None: under the first
            key with a common name of labels.

    Returns:
        The labels as texts: none, one or several.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(content, dict):
        return ()
    if key is not None:
        return _texts(_value(content, key))
    named = {plain(name): value for name, value in reversed(content.items())}
    return next((found for name in LABEL_NAMES if name in named and (found := _texts(named[name]))), ())


def _value(content: Any, key: str) -> Any:
    """The value at a key; one that contains dots itself goes before nested ones."""
    if isinstance(content, list):  # by number
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, dict):
        return None
    if key in content:
        return content[key]
    parts = key.split(".")
    for end in range(1, len(parts)):
        first = ".".join(parts[:end])
        if first in content:
            return _value(content[first], ".".join(parts[end:]))
    return next((value for name, value in content.items() if plain(name) == plain(key)), None)


def _texts(value: Any) -> Sequence[str]:
    """A label, or a list of them, as texts."""
    values = value if isinstance(value, list) else [value]
    labels = single_labels(values)
    if labels is None:
        return ()
    pairs = zip(values, labels, strict=True)
    return [str(raw if isinstance(raw, bool) else label) for raw, label in pairs if label is not None]
