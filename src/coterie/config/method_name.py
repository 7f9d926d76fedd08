"""Checks the name of a method; it imports no torch, so that a misspelt one is refused at once."""

import glob
import os
from collections.abc import Collection

from coterie.errors import BadConfig, did_you_mean
from coterie.paths import expand


def check_method_name(name: str | None, methods: Collection[str]) -> str:
    """Check the first word of ``METHOD DATA``.

    A word that is neither a method nor an existing source of images is a misspelt method; an existing source is where a method
    is expected only if a config file has the method.

    Args:
        name: the word; None: there is none.
        methods: the names of all methods.

    Returns:
        The name.

    Raises:
        BadConfig: it is not the name of a method.
    """
    if name is not None and name in methods:
        return name
    known = f"one of {', '.join(methods)}"
    if name is None or names_a_source(name):
        raise BadConfig(f"name a method before the images: {known}")
    raise BadConfig(f"unknown method {name!r}{did_you_mean(name, methods) or f'; choose {known}'}")


def split_images(
    method: str | None, data: tuple[str, ...], methods: Collection[str]
) -> tuple[str | None, tuple[str, ...]]:
    """Tell ``METHOD DATA`` from ``DATA`` alone, in which the first word names images; the method is then chosen.

    Args:
        method: the first word; None: there is none.
        data: the other words.
        methods: the names of all methods.

    Returns:
        The method, or None, and all words that name images.
    """
    if method is not None and method not in methods and names_a_source(method):
        return None, (method, *data)
    return method, data


def names_a_source(spec: str) -> bool:
    """Whether a word names images: an existing file or folder, a glob that matches something, or an address elsewhere."""
    path = str(expand(spec))
    if "://" in spec or spec.startswith("hf:"):
        return True
    return os.path.lexists(path) or (glob.has_magic(path) and any(glob.iglob(path)))  # noqa: PTH207
