"""Which image a name in a table means: its path, the end of its path, its file name, its stem or its number."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.pages import Pages
from coterie.data.sources.source import Concatenated, ImageSource

_PATH, _END_OF_PATH, _FILE_NAME, _STEM, _NUMBER = range(5)  # how a name was found: the first is the surest


@dataclass(frozen=True)
class Matched:
    """Which images the names in a table mean.

    Attributes:
        images: the positions of the images of each name: none, one, or several if an image is listed more than once.
        ambiguous: names that mean one of several images, each with two of these.
    """

    images: tuple[tuple[int, ...], ...]
    ambiguous: tuple[tuple[str, str, str], ...]


def match_names(wanted: Sequence[str], names: Sequence[str], root: str = "") -> Matched:
    """Find the images that names in a table mean.

    A name may be the path of an image below the root, an absolute path, the end of one, a file name, each with another
    suffix of images or without one, or the number that a file name is. An image that is named surely is not named by
    another name less surely: of ``images/1.png`` and ``masks/1.png`` only the first is the image ``1.png`` of ``images``.

    Args:
        wanted: names in a table.
        names: names of images.
        root: the folder that names of images are relative to, where known.
    """
    images = _Images(names, root)
    found = [images.find(normal(name)) for name in wanted]
    surest: dict[str, int] = {}
    for how, paths in found:
        if len(paths) == 1:
            surest[paths[0]] = min(how, surest.get(paths[0], how))
    meant = (paths if len(paths) == 1 and how == surest[paths[0]] else () for how, paths in found)
    return Matched(
        tuple(tuple(images.places[paths[0]]) if paths else () for paths in meant),
        tuple((name, paths[0], paths[1]) for name, (_, paths) in zip(wanted, found, strict=True) if len(paths) > 1),
    )


def names_to_match(source: ImageSource) -> tuple[list[str], str]:
    """The names of the images of a source, and the folder that they are relative to, if there is one."""
    if isinstance(source, Pages):
        names, root = names_to_match(source.source)
        return [source.numbered(names[place], index) for index, place in enumerate(source.places.tolist())], root
    if isinstance(source, Concatenated):
        roots = [str(getattr(part, "root", "")) for part in source.sources]
        pairs = (source.find(place) for place in range(len(source)))
        return [f"{roots[part]}/{source.sources[part].name(row)}".lstrip("/") for part, row in pairs], ""
    return [source.name(place) for place in range(len(source))], str(getattr(source, "root", ""))


def normal(name: str) -> str:
    """A name with slashes, without ``./`` before it, and with letters composed as in most files."""
    name = name.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class _Images:
    """The images by what they may be called; what is needed less often is made when it is needed."""

    def __init__(self, names: Sequence[str], root: str) -> None:
        self.root = normal(root).rstrip("/")
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, name in enumerate(names):
            self.places[normal(name)].append(place)

    @cached_property
    def _by_file_name(self) -> dict[str, list[str]]:
        return self._by(lambda path: path.rpartition("/")[2])

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return self._by(_stem)

    @cached_property
    def _by_number(self) -> dict[str, list[str]]:
        return self._by(lambda path: _number(_stem(path)))

    def _by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.places:
            found[key(path)].append(path)
        found.pop("", None)
        return found

    def find(self, name: str) -> tuple[int, tuple[str, ...]]:
        """How surely, and which images a name may mean; several if it is ambiguous."""
        if name in self.places:
            return _PATH, (name,)
        below = name.removeprefix(f"{self.root}/") if self.root else name
        if below in self.places:
            return _PATH, (below,)
        folders, _, file = name.rpartition("/")
        stem = _stem(name)
        for how, candidates in (
            (_FILE_NAME, self._by_file_name.get(file)),
            (_STEM, self._by_stem.get(stem)),
            (_NUMBER, self._by_number.get(_number(stem) or "-")),
        ):
            if candidates:
                paths, whole = self._closest(folders, candidates)
                return (_END_OF_PATH if whole and how == _FILE_NAME else how), paths
        return _NUMBER, ()

    def _closest(self, folders: str, candidates: list[str]) -> tuple[tuple[str, ...], bool]:
        """The images whose folders agree best with those in a name, and whether all of those agree."""
        if not folders:
            return tuple(candidates), True
        parts = folders.split("/")
        agreed = [_agreed(parts, self._folders(path)) for path in candidates]
        most = max(agreed)
        best = tuple(path for path, each in zip(candidates, agreed, strict=True) if each == most)
        return best, most == len(parts)

    def _folders(self, path: str) -> list[str]:
        return f"{self.root}/{path}".strip("/").split("/")[:-1]


def _agreed(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of their last parts two paths have in common."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _stem(path: str) -> str:
    """The file name without the suffix, if it is one of images."""
    file = path.rpartition("/")[2]
    return file.rpartition(".")[0] if is_image_name(os.fsencode(file)) else file


def _number(stem: str) -> str:
    """The number that a stem is, without leading zeros; empty if it is none."""
    return str(int(stem)) if stem.isascii() and stem.isdigit() else ""
