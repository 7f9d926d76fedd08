"""Read files written by ``torch.save`` without trusting them."""

import _compat_pickle
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.models.nested_tensors import StandIn, flat_tensors

_MOST_KINDS_OF_DICTIONARY = 16


def read_torch_file(path: Path, *, foreign: bool = False) -> Any:
    """Load a file written by ``torch.save`` onto the CPU; nothing in it is executed.

    It takes no more memory than the file has bytes: compressed files are refused, and so are tensors larger than their stored
    data.

    Args:
        path: the file.
        foreign: accept objects of other classes than torch's: options of a training program, for example. Each is replaced by
            a :class:`~coterie.models.nested_tensors.StandIn` or, if it has the items of a dictionary, by a dictionary.

    Returns:
        The saved object.

    Raises:
        ValueError: the file is compressed, or a tensor is not stored in full.
        Exception: whatever torch raises for a damaged file or for one that contains other classes.
    """
    if zipfile.is_zipfile(path):  # files from before torch 1.6 are not
        with zipfile.ZipFile(path) as packed:
            if any(each.compress_type != zipfile.ZIP_STORED for each in packed.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
    content = _load_foreign(path) if foreign else _load(path, {})
    for each in flat_tensors(content).values():
        if not _is_stored(each):
            raise ValueError(f"a tensor {list(each.shape)} is not stored in full")
    return content


def _load(path: Path, classes: dict[str, type]) -> Any:
    with torch.serialization.safe_globals([(each, name) for name, each in classes.items()]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickles and sparse tensors
        with path.open("rb") as file:  # by its path, torch would read some names as other formats
            return torch.load(file, map_location="cpu", weights_only=True)


def _load_foreign(path: Path) -> Any:
    """Load with stand-ins for all classes: torch prefers its own, and never looks up a class that it has been given.

    It puts items only into what it knows as a dictionary, and names the class in its message otherwise: that class is
    replaced by a dictionary then.
    """
    names = sorted(_class_names(path))
    classes: dict[str, type] = {name: type(f"StandIn{number}", (StandIn,), {}) for number, name in enumerate(names)}
    for _ in range(_MOST_KINDS_OF_DICTIONARY):
        try:
            return _load(path, classes)
        except pickle.UnpicklingError as error:
            found = re.search(r"Can only SETITEMS? .*\.StandIn(\d+)'", str(error).replace("\n", " "))
            if found is None:
                raise
            classes[names[int(found[1])]] = type(f"Items{found[1]}", (_Items,), {})
    raise pickle.UnpicklingError("it has too many kinds of dictionaries")


class _Items:
    """The stand-in of a kind of dictionary: making one makes a dictionary."""

    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


def _class_names(path: Path) -> set[str]:
    """The dotted names of the classes and functions that a file asks for; a legacy file has four pickles in a row."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return {name for _ in range(4) for name in _globals(file)}
    with zipfile.ZipFile(path) as packed:
        inside = [each for each in packed.namelist() if each.endswith("/data.pkl")]
        return {name for each in inside for name in _globals(packed.read(each))}


def _globals(pickled: bytes | BufferedReader) -> Iterator[str]:
    """Read a pickle up to its end without executing it; names of Python 2 are translated as torch does."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and isinstance(argument, str):
            module, _, name = argument.partition(" ")
            module, name = _compat_pickle.NAME_MAPPING.get(
                (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            )
            yield f"{module}.{name}"


def _is_stored(tensor: Tensor) -> bool:
    """Whether the file contains every element: an expanded or sparse tensor takes more memory than its data."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
