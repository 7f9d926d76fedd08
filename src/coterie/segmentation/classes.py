"""Which class a value of a mask means: from a file, of a known data set, or from the values that there are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.paths import expand
from coterie.segmentation.known_classes import ADE20K, CITYSCAPES, CITYSCAPES_LABEL_IDS, VOC

IGNORED = 255
"""The label of a pixel that teaches nothing and counts in no figure; in masks too, unless a class has this value."""
MOST_CLASSES = 255
VALUES = 256
"""Of a mask of 8 bits."""
_MOST_GRAYS = 16
"""Levels of gray that are taken for classes, if they are spread evenly from black to white."""


@dataclass(frozen=True)
class Classes:
    """The classes of masks.

    Attributes:
        names: of the classes 0, 1, 2, ...
        values: of each class in a mask.
        ignored: values of pixels that teach nothing and count in no figure.
        where: what says so.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    ignored: tuple[int, ...]
    where: str

    @property
    def table(self) -> UInt8[np.ndarray, "256"]:
        """The label of each value; that of an unknown one is :data:`IGNORED` too: check for these first."""
        table = np.full(VALUES, IGNORED, dtype=np.uint8)
        table[list(self.values)] = np.arange(len(self.values))
        return table

    @property
    def known(self) -> frozenset[int]:
        """All values that a mask may have."""
        return frozenset((*self.values, *self.ignored))


def known_classes(name: str) -> Classes | None:
    """The classes of a data set: ``voc``, ``cityscapes``, ``cityscapes_label_ids`` or ``ade20k``; None for another name."""
    if name == "voc":
        return Classes(VOC, tuple(range(len(VOC))), (IGNORED,), "Pascal VOC")
    if name == "cityscapes":
        return Classes(CITYSCAPES, tuple(range(len(CITYSCAPES))), (IGNORED,), "Cityscapes, labelTrainIds")
    if name == "cityscapes_label_ids":
        others = sorted({*range(34), IGNORED} - set(CITYSCAPES_LABEL_IDS))
        return Classes(CITYSCAPES, CITYSCAPES_LABEL_IDS, tuple(others), "Cityscapes, labelIds")
    if name == "ade20k":
        return Classes(ADE20K, tuple(range(1, len(ADE20K) + 1)), (0, IGNORED), "ADE20K, 0 is unlabeled")
    return None


def read_classes(file: str | Path) -> Classes:
    """Read names of classes: a line each of a text file, or JSON.

    JSON is a list of names, or an object that gives the name of each value, and null for one that is ignored. A value of 255
    that has no name is ignored too.

    Args:
        file: its name ends in ``.txt`` or ``.json``.

    Raises:
        UserError: it cannot be read, or names cannot be used, in one line.
    """
    path = expand(file)
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix == ".json" else text.strip().splitlines()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}): name a file of class names, a line each, or JSON"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is neither text nor JSON: {error}") from None
    if isinstance(content, dict):
        return _of_values(content, str(file))
    if not (isinstance(content, list) and all(isinstance(each, str) for each in content)):
        raise UserError(f"{file}: give a list of names, or an object of a name for each value")
    return _of_values({str(place): name.strip() for place, name in enumerate(content)}, str(file))


def found_classes(counts: Int[np.ndarray, "256"], where: str) -> tuple[Classes, str]:
    """Classes named by the values that masks have, and a line that says which.

    255 is ignored, unless it is the white of a few grays that are spread evenly from black on: 0 and 255, or 0, 128 and 255.

    Args:
        counts: pixels of each value.
        where: of the masks.

    Raises:
        UserError: they have fewer than two values that are not ignored.
    """
    values = [int(each) for each in np.flatnonzero(counts)]
    gray, said = _spread_evenly(values), ""
    if gray:
        said = ", which are grays from black to white, so that 255 is a class too"
    elif IGNORED in values:
        values, said = values[:-1], ", and 255 is ignored"
    if len(values) < 2:
        raise UserError(f"{where}: all pixels of the masks have one value: a segmenter needs two classes or more")
    names = tuple(map(str, values))
    line = f"{where}: the classes are the values {first_few(names, ', ')}{said}; --classes FILE names them"
    return Classes(names, tuple(values), () if gray else (IGNORED,), where), line


def in_order(classes: Classes, counts: Int[np.ndarray, "256"], default: Classes | None) -> Classes:
    """A list of names for masks of as many grays, spread evenly from black to white, in their order; else the same classes.

    Args:
        classes: as a file lists them.
        counts: pixels of each value.
        default: of a segmenter, which may know more grays than are in a few masks.
    """
    values = tuple(int(each) for each in np.flatnonzero(counts))
    listed = classes.values == tuple(range(len(classes.names)))
    if listed and default is not None and default.names == classes.names and _spread_evenly(list(default.values)):
        return default
    if listed and len(values) == len(classes.names) and _spread_evenly(list(values)):
        return Classes(classes.names, values, (), classes.where)
    return classes


def _spread_evenly(values: list[int]) -> bool:
    """Whether values are 2 to 16 grays from 0 to 255 at equal distances, rounded either way."""
    if not 2 <= len(values) <= _MOST_GRAYS:
        return False
    ideal = np.linspace(0, VALUES - 1, len(values))
    return bool((np.abs(np.array(values) - ideal) < 1).all())


def _of_values(content: Mapping[str, Any], where: str) -> Classes:
    """Classes from the name of each value.

    Raises:
        UserError: a value or a name cannot be used.
    """
    for value, name in content.items():
        if not (value.isdecimal() and int(value) < VALUES):
            raise UserError(f"{where}: {value!r} is no value of a mask: give numbers from 0 to 255")
        if not (name is None or (isinstance(name, str) and name)):
            raise UserError(f"{where}: the name of {value} is {name!r}: give a word, or null if it is ignored")
    named = {int(value): name for value, name in content.items()}
    values = sorted(value for value, name in named.items() if name is not None)
    names = tuple(named[value] for value in values)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where} names two classes {twice}: give each its own name")
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UserError(f"{where} names {len(names)} classes: a segmenter has 2 to {MOST_CLASSES}")
    ignored = {value for value, name in named.items() if name is None} | ({IGNORED} - set(values))
    return Classes(names, tuple(values), tuple(sorted(ignored)), where)
