"""Whether what a source calls its classes can be classes: not splits, not kinds of data, and two at least."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from coterie.data.sources.source import ImageSource, label_notes
from coterie.errors import UserError
from coterie.formatting import first_few

_SPLITS = {
    "train": ("train", "training", "tr", "trn", "trainval"),
    "test": (
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "evaluation",
        "test",
        "testing",
        "ts",
        "tst",
        "holdout",
        "heldout",
    ),
    "split": ("unlabeled", "unlabelled", "unsup", "extra", "query", "gallery", "fold", "split"),
}
_KINDS = {
    *("image", "img", "photo", "picture", "pic", "jpegimage", "rgb", "frame", "mask", "label", "annotation", "annot"),
    *("segmentation", "seg", "groundtruth", "truth", "gt", "depth", "thumbnail", "thumb"),
}
_BESIDE = {"data", "set", "part", "coco", "class", "object", "ground"}  # words that say nothing by themselves
_SHOWN = 8  # classes whose names are shown; of more, the first few


def role_of(name: str) -> str | None:
    """What a folder's name says that it holds instead of a class: ``train``, ``test``, ``split`` or ``data``; None: a class.

    Case, digits and words such as set or images around the name of a split do not matter: ``train2017``, ``Test-Set``,
    ``images_val``.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = [_singular(word.removesuffix("set") or word) for word in re.findall("[^\\W0-9_]+", spaced)]
    left = [word for word in words if word not in _KINDS | _BESIDE]
    if len(left) == 1:
        return next((role for role, known in _SPLITS.items() if left[0] in known), None)
    numbered = re.search("[0-9]", re.sub("(19|20)[0-9]{2}", "", spaced))  # image_17 may well be a class
    return "data" if not left and _KINDS.intersection(words) and not numbered else None


def _singular(word: str) -> str:
    known = {*_BESIDE, *(each for names in _SPLITS.values() for each in names)}
    return word if word in known else word.removesuffix("s")


def check_classes(source: ImageSource, numbers: Int[np.ndarray, " n"], what: str) -> tuple[str, ...]:
    """Refuse classes that are none, which every network would tell apart, or of which there is only one.

    Args:
        source: the images.
        numbers: the class of each image, -1 for none; none of images that have several.
        what: ``TRAIN``; ``LABELED``, beside which no test images are named; or ``TEST``, which may have one class.

    Returns:
        Lines about classes whose names are doubtful.

    Raises:
        UserError: all classes are named like splits or kinds of data, or there is one class only.
    """
    names, notes = present(source.classes, numbers), label_notes(source)
    by_folder = notes.origin.startswith("folders")
    if not names:
        return ()
    roles = {name: role for name in names if (role := role_of(name)) is not None}
    listed = first_few(list(roles), ", ")
    if by_folder and len(roles) == len(names):
        raise UserError(
            f"{what}: the folders {listed} are {_kind(set(roles.values()))}, not classes: "
            f"{_instead(notes.folder, roles, alone=what == 'LABELED')}"
        )
    if len(names) < 2 and what != "TEST":
        raise UserError(
            f"{what} has one class only ({names[0]}), which any network gets right: {_one_class(notes.folder, names)}"
        )
    remarks = []
    if by_folder and roles:
        remarks.append(f"{what}: is {listed} a class? It is named like {_kind(set(roles.values()))}")
    same = [f"{one} and {other}" for one, other in similar(names)]
    if same:
        remarks.append(
            f"{what} has classes whose names differ only in case or in how they are written: {first_few(same, ', ')}"
        )
    return tuple(remarks)


def describe_classes(source: ImageSource, numbers: Int[np.ndarray, " n"], what: str) -> str:
    """The classes of a source in one line, and where they are from, as in ``TRAIN: 2 classes (folders): cat, dog``."""
    names, origin = present(source.classes, numbers), label_notes(source).origin
    shown = ", ".join(names) if len(names) <= _SHOWN else first_few(names, ", ")
    return f"{what}: {len(numbers):,} images of {len(names)} classes{f' ({origin})' if origin else ''}: {shown}"


def present(classes: Sequence[str], numbers: Int[np.ndarray, " n"]) -> list[str]:
    """The names of the classes that have an image."""
    return [classes[number] for number in np.unique(numbers[numbers >= 0]).tolist()]


def similar(names: Sequence[str], others: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, spaces, dashes or leading zeros: within one list, or between two."""
    found: dict[str, list[str]] = defaultdict(list)
    if others is None:
        for name in names:
            found[_spelled(name)].append(name)
        return [(same[0], same[1]) for same in found.values() if len(same) > 1]
    for name in others:
        found[_spelled(name)].append(name)
    return [(name, found[_spelled(name)][0]) for name in names if _spelled(name) in found]


def _spelled(name: str) -> str:
    """A name without what people write in different ways; a number before a name, as in ``01_cat``, is left out."""
    plain = re.sub(r"[\W_]+", "", name.casefold())
    bare = re.sub(r"^[0-9]+(?=[^0-9])", "", plain)
    return bare if bare and not bare[0].isdigit() else plain.lstrip("0") or "0"


def _kind(roles: set[str]) -> str:
    return "kinds of data" if roles == {"data"} else "splits" if "data" not in roles else "splits or kinds of data"


def _instead(folder: str, roles: dict[str, str], *, alone: bool) -> str:
    """What to name instead of a folder of splits or of kinds of data."""
    of_role = {
        role: [name for name, each in roles.items() if each == role] for role in ("train", "test", "split", "data")
    }
    if set(roles.values()) == {"data"}:
        images = next((name for name in roles if re.search("im|pho|pic|rgb", name, re.IGNORECASE)), next(iter(roles)))
        inner = _inner_classes(folder, images)
        if inner is not None:
            return f"if its classes are {first_few(inner[1], ', ')}, name {_below(folder, inner[0])}"
        return f"name {_below(folder, images)}, and a table of its labels with --labels"
    tests = sorted(of_role["test"], key=lambda name: not name.lower().startswith(("val", "dev")))
    first = (of_role["train"] or of_role["split"] or tests or [next(iter(roles))])[0]
    other = [] if alone else [name for name in tests if name != first]
    return f"name {_below(folder, first)}{f' --test {_below(folder, other[0])}' if other else ''}"


def _one_class(folder: str, names: Sequence[str]) -> str:
    """What to do where there is one class."""
    inner = _inner_classes(folder, names[0])
    if inner is not None:
        return f"if its classes are {first_few(inner[1], ', ')}, name {_below(folder, inner[0])}"
    return "name images of two classes or more, or a table of labels with --labels"


def _inner_classes(folder: str, name: str) -> tuple[str, list[str]] | None:
    """The first folder at or below one that holds several folders, and their names; None if there is none."""
    while folder and (inner := _folders(Path(folder, name))):
        if len(inner) > 1:
            return name, inner
        name = f"{name}/{inner[0]}"
    return None


def _folders(folder: Path) -> list[str]:
    """The names of the visible folders in one; none if it cannot be listed."""
    try:
        return sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return []


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
