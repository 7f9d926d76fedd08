"""The tensors of nested content, such as a checkpoint: one flat dictionary with dotted names."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


class StandIn(list[Any]):
    """What the reader of torch's files puts in the place of an object of a class that it does not know.

    It keeps the attributes that the file gives the object, and nothing else: no code of the class runs, it is not imported.

    Attributes:
        attributes: the object's attributes, where the file lists them by name; else empty.
    """

    attributes: dict[Any, Any]

    def __new__(cls, *arguments: Any) -> "StandIn":
        """Ignore the arguments; a pickle may call this without ``__init__``."""
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *arguments: Any) -> None:
        """Do not take the arguments as items."""

    def __setstate__(self, state: Any) -> None:
        """Keep named attributes; slots come as the second of a pair."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes |= part

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key of a dictionary
    __eq__ = object.__eq__


def flat_tensors(content: Any) -> dict[str, Tensor]:
    """Collect all tensors in dictionaries, lists, tuples and stand-ins, at any depth.

    Args:
        content: nested content.

    Returns:
        The tensors by the names and positions that lead to them, joined by dots, in the order of the content. The parameters
        of a whole network that was saved have the names of its state dict.
    """
    return {".".join(path): tensor for path, tensor in _walk(content, (), set())}


def _walk(content: Any, path: tuple[str, ...], above: set[int]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(content, Tensor):
        yield path, content
        return
    if id(content) in above:  # it contains itself
        return
    above.add(id(content))
    for key, each in _items(content):
        yield from _walk(each, path if key is None else (*path, key), above)
    above.discard(id(content))


def _items(content: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(content, StandIn):
        yield from _attributes(content)
        content = list(content)
    if isinstance(content, Mapping):
        yield from ((str(key), each) for key, each in content.items())
    elif isinstance(content, list | tuple):
        yield from ((str(position), each) for position, each in enumerate(content))


def _attributes(stand_in: StandIn) -> Iterator[tuple[str | None, Any]]:
    """A network keeps its tensors and its layers in three dictionaries whose names are not part of a state dict."""
    for key, each in stand_in.attributes.items():
        yield (None if key in ("_parameters", "_buffers", "_modules") else str(key)), each
