"""Image files: a folder of them, a text list of them, or those that a glob finds."""

import io
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from coterie.data.sources.file_names import IMAGE_SUFFIXES, FileNames, is_image_name, printable
from coterie.data.sources.fingerprint import StoredFile, stored_file
from coterie.data.sources.labels import Labels
from coterie.errors import BadImage, NoImages, UserError

READ_LIMIT = 2**32  # bytes of an encoded image; larger files are not read into memory


class ImageFiles:
    """An image source over files.

    The label of an image is the first folder of its name below ``shared``, if every image has one there; otherwise there
    are no labels.

    Args:
        root: Folder to which names are relative (absolute names are used as they are).
        names: One name per image.
        shared: Common prefix of all names, down to the level of the class folders: empty, or ends in a slash.
    """

    def __init__(self, root: bytes, names: FileNames, shared: bytes = b"") -> None:
        self._root = root
        self._names = names
        self._shared = shared
        self.labels: Labels | None
        self.classes: tuple[str, ...]
        self.labels, self.classes = _folder_labels(names, len(shared))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> bytes:
        """An encoded image.

        Raises:
            BadImage: The file is missing or cannot be read.
        """
        return read_file(os.path.join(self._root, self._names.raw(index)))  # noqa: PTH118 -- bytes

    def name(self, index: int) -> str:
        """The path of an image below the root, or as it is in the list."""
        return self._names[index]

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return None if self.labels is None else int(self.labels[index])

    def files(self) -> Iterator[bytes]:
        """The paths of all files."""
        return (os.path.join(self._root, name) for name in self._names)  # noqa: PTH118 -- bytes

    def stored_files(self) -> Iterator[StoredFile]:
        """The files, named below the root, or absolute names of a list below the folder that contains them all."""
        for name in self._names:
            if name.startswith(b"/"):
                yield stored_file(self._shared or b"/", name[len(self._shared or b"/") :])
            else:
                yield stored_file(self._root, name)


def open_folder(folder: str) -> ImageFiles:
    """Open all images below a folder, in the byte order of their paths; hidden files and folders are skipped.

    Raises:
        NoImages: No file in it has the name of an image.
        UserError: A folder in it cannot be listed.
    """
    root = os.fsencode(Path(folder).absolute())
    names = FileNames(_walk(root))
    if len(names):
        return ImageFiles(root, names)
    for suffix in (".tar", ".parquet"):
        if any(Path(folder).glob(f"*{suffix}")):
            raise NoImages(f"{folder}: no image in this folder, but {suffix} files; give them as '{folder}/*{suffix}'")
    raise NoImages(f"{folder}: no image in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")


def open_list(path: str) -> ImageFiles:
    """Open the files that a text file lists, one per line, in its order; relative to its folder, or absolute.

    Raises:
        NoImages: The list is empty.
        UserError: It cannot be read, or is not text.
    """
    try:
        names = FileNames(_lines(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not len(names):
        raise NoImages(f"{path}: this list is empty; write one path per line")
    return ImageFiles(os.fsencode(Path(path).absolute().parent), names, _shared_folder(names))


def open_files(paths: Iterable[str]) -> ImageFiles:
    """Open image files that were given one by one (or found by a glob), in the byte order of their paths."""
    ordered = sorted(os.fsencode(Path(path).absolute()) for path in paths)
    shared = _shared_folder(ordered)
    return ImageFiles(shared, FileNames(path.removeprefix(shared) for path in ordered))


def read_file(path: bytes) -> bytes:
    """Read a whole file.

    Raises:
        BadImage: It is missing, not a regular file, too large, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait forever.
        with io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not a regular file")
            if status.st_size > READ_LIMIT:
                raise BadImage(f"{status.st_size} bytes, more than the limit of {READ_LIMIT} bytes per image")
            return file.readall()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error


def _walk(root: bytes) -> Iterator[bytes]:
    """The relative paths of all images below a folder, in byte order, listing a folder at a time.

    A link to a folder is followed unless it leads back to a folder that is being walked.
    """
    waiting = [(b"", iter(_entries(root)), _identity(root))]
    while waiting:
        prefix, entries, _ = waiting[-1]
        entry = next(entries, None)
        if entry is None:
            waiting.pop()
        elif not entry.endswith(b"/"):
            yield prefix + entry
        else:
            folder = os.path.join(root, prefix + entry)  # noqa: PTH118 -- bytes
            if all(identity != _identity(folder) for *_, identity in waiting):
                waiting.append((prefix + entry, iter(_entries(folder)), _identity(folder)))


def _entries(folder: bytes) -> list[bytes]:
    """Images and (ending in a slash) subfolders of a folder; sorted like this, whole paths come in byte order."""
    try:
        with os.scandir(folder) as found:
            entries = [entry.name + b"/" if _is_folder(entry) else entry.name for entry in found]
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot list this folder: {error.strerror}") from error
    return sorted(e for e in entries if is_image_name(e) or (e.endswith(b"/") and not e.startswith(b".")))


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself is not a folder; reading it will say so
        return False


def _identity(folder: bytes) -> tuple[int, int]:
    try:
        status = os.stat(folder)  # noqa: PTH116 -- bytes
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot list this folder: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _lines(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file):
            name = line.rstrip(b"\r\n")
            if number == 0:
                name = name.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in name:
                raise UserError(
                    f"{path}: not a text list of files (line {number + 1}); save it as UTF-8, one path per line"
                )
            if name:
                yield name


def _shared_folder(names: Iterable[bytes]) -> bytes:
    """The deepest folder that contains all files, with its slash; empty if there is none."""
    shared: bytes | None = None
    for name in names:
        folder = name[: name.rfind(b"/") + 1]
        if shared is None:
            shared = folder
        while not folder.startswith(shared):
            shared = shared[: shared.rfind(b"/", 0, -1) + 1]
    return shared or b""


def _folder_labels(names: FileNames, skip: int) -> tuple[Labels | None, tuple[str, ...]]:
    """Number the first folder of each name after ``skip`` bytes, in sorted order; (None, ()) if one name has none."""
    known: dict[bytes, int] = {}
    codes = array("i")
    for name in names:
        folder, slash, _ = name[skip:].partition(b"/")
        if not (folder and slash):
            return None, ()
        codes.append(known.setdefault(folder, len(known)))
    classes = sorted(known)
    numbers = np.empty(len(known), dtype=np.int32)
    numbers[[known[folder] for folder in classes]] = np.arange(len(known))
    return numbers[np.array(codes)], tuple(printable(folder) for folder in classes)
