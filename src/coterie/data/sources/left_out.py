"""What a source leaves out, counted by kind, and the one line that says so."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping

from coterie.data.sources.file_names import DICOM_SUFFIXES, HEIF_SUFFIXES, printable

WITHOUT_ENDING = "without an ending"
HIDDEN_IMAGES, HIDDEN_FOLDERS = "hidden images", "hidden folders"
NO_TARGET, NO_FILES = "links to nothing", "pipes, sockets or devices"
ARCHIVES = {
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz"), "tar -xf {file} -C {folder}"),
    **dict.fromkeys((".tar.zst", ".tzst"), "tar --zstd -xf {file} -C {folder}"),
    ".zip": "unzip -q {file} -d {folder}",
    ".7z": "7z x {file} -o{folder}",
    ".rar": "unrar x {file} {folder}/",
}
"""Endings of archives that images cannot be read from one by one, and the command that unpacks them into a folder."""
_MAGIC = {
    b"\x1f\x8b": ".tar.gz",
    b"BZh": ".tar.bz2",
    b"\xfd7zXZ": ".tar.xz",
    b"\x28\xb5\x2f\xfd": ".tar.zst",
    b"PK\x03\x04": ".zip",
    b"7z\xbc\xaf\x27\x1c": ".7z",
    b"Rar!": ".rar",
}
_ENDING = re.compile(rb"\.[a-z0-9_]{1,10}$")
_SINGULAR = {
    HIDDEN_IMAGES: "hidden image",
    HIDDEN_FOLDERS: "hidden folder",
    NO_TARGET: "link to nothing",
    NO_FILES: "pipe, socket or device",
}
_SHOWN = 8  # kinds that a line names
_ADVICE = {
    **dict.fromkeys(HEIF_SUFFIXES, "install coterie[heif]"),
    **dict.fromkeys(DICOM_SUFFIXES, "install coterie[dicom]"),
    **dict.fromkeys(ARCHIVES, "unpack them"),
    **dict.fromkeys((".tar", ".parquet", ".arrow"), "give them by themselves"),
    WITHOUT_ENDING: "if these are images, name them in a .txt list",
}


class LeftOut:
    """Files and members that a source passes over.

    Attributes:
        counts: how many of each kind, which is an ending such as ``.heic``, or some words.
        folders: the folder of the first file of each kind, and whether there are others.
        repeated: how many images of an archive have the name of an earlier one.
        unlisted: folders that cannot be listed, with the reason.
    """

    def __init__(self, counts: Mapping[str, int] | None = None, repeated: int = 0) -> None:
        self.counts: Counter[str] = Counter(counts)
        self.repeated = repeated
        self.folders: dict[str, tuple[bytes, bool]] = {}
        self.unlisted: list[str] = []

    def add(self, other: "LeftOut") -> None:
        """Count what another source leaves out."""
        self.counts.update(other.counts)
        self.repeated += other.repeated

    def add_names(self, folder: bytes, names: Iterable[bytes]) -> None:
        """Count files of a folder, given by their names in it."""
        for kind, number in Counter(kind_of(name) for name in names).items():
            self.counts[kind] += number
            first, several = self.folders.get(kind, (folder, False))
            self.folders[kind] = first, several or first != folder

    def remarks(self, where: str) -> tuple[str, ...]:
        """The lines about a source: none if it leaves nothing out."""
        lines = [f"{where}: left out: {self}"] if self.counts else []
        if self.repeated:
            again = (
                "images have the name of an earlier one"
                if self.repeated > 1
                else "image has the name of an earlier one"
            )
            lines.append(f"{where}: {self.repeated:,} {again}; all are read, though tar would unpack only the last")
        return (*lines, *_first(self.unlisted))

    def __str__(self) -> str:
        kinds = self.counts.most_common()
        parts = [_counted(kind, number) for kind, number in kinds[:_SHOWN]]
        rest = sum(number for _, number in kinds[_SHOWN:])
        return ", ".join(parts) + (f" and {rest:,} of {len(kinds) - _SHOWN} other kinds" if rest else "")


def kind_of(name: bytes) -> str:
    """The kind of a file that is left out, by its name: its ending in lower case, or some words."""
    last = name.rpartition(b"/")[2].lower()
    if last.startswith(b"."):
        return HIDDEN_IMAGES
    compound = next((ending for ending in ARCHIVES if last.endswith(ending.encode())), None)
    if compound is not None:
        return compound
    found = _ENDING.search(last, 1)
    return WITHOUT_ENDING if found is None else found.group().decode()


def archive_kind(path: str, head: bytes = b"") -> str | None:
    """Which kind of archive a file is, of those that have to be unpacked; by its first bytes, or else by its name."""
    by_content = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    return by_content or next((kind for kind in ARCHIVES if path.lower().endswith(kind)), None)


def how_to_unpack(path: str, kind: str) -> str:
    """The command that unpacks an archive, and what to give then."""
    ending = next((each for each in (*ARCHIVES, ".tar") if path.lower().endswith(each)), "")
    folder = path[: len(path) - len(ending)] if ending else f"{path}-unpacked"
    command = ARCHIVES[kind].format(file=shlex.quote(path), folder=shlex.quote(folder))
    return f"unpack it with: mkdir {shlex.quote(folder)} && {command}; then give {shlex.quote(folder)}"


def where_to_look(folder: str, left: LeftOut) -> str | None:
    """What to give in place of a folder without images that holds shards, tables or archives; None if it holds none."""
    for kind in (".tar", ".parquet", ".arrow", *ARCHIVES):
        if kind in left.folders:
            below, several = left.folders[kind]
            inner = printable(below).strip("/")
            pattern = os.path.join(folder, *(["**"] if several else [inner] if inner else []), f"*{kind}")  # noqa: PTH118
            if kind in ARCHIVES:
                example = ARCHIVES[kind].format(file="FILE", folder="FOLDER")
                return f"{left.counts[kind]:,} {kind} ({pattern}): unpack each with mkdir FOLDER && {example}"
            return f"{kind} files; give them as '{pattern}'"
    return None


def advice_on(kind: str) -> str:
    """Which package reads a kind of image; empty where none does."""
    return _ADVICE.get(kind, "") if kind in (*HEIF_SUFFIXES, *DICOM_SUFFIXES) else ""


def _counted(kind: str, number: int) -> str:
    advice = _ADVICE.get(kind)
    name = kind if kind.startswith(".") or number != 1 else _SINGULAR.get(kind, kind)
    return f"{number:,} {name}" + (f" ({advice})" if advice else "")


def _first(lines: list[str]) -> list[str]:
    """Some of many lines."""
    more = len(lines) - 3
    return lines if more <= 0 else [*lines[:3], f"{more:,} more folders cannot be listed"]
