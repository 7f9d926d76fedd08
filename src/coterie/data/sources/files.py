"""Image files: a folder of them, a text list of them, or those that a glob finds."""

import io
import os
import stat
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.dicom_frames import frames_remark
from coterie.data.sources.file_names import IMAGE_SUFFIXES, FileNames, printable
from coterie.data.sources.fingerprint import StoredFile, stored_file, stored_table
from coterie.data.sources.label_table import matched_labels
from coterie.data.sources.label_values import ImageLabels, LabelNotes
from coterie.data.sources.labels import label_at
from coterie.data.sources.left_out import LeftOut, kind_of, where_to_look
from coterie.data.sources.pages import pages_remark
from coterie.data.sources.tables import read_table
from coterie.data.sources.walk import walk
from coterie.errors import BadImage, NoImages, UserError

METADATA = (b"metadata.csv", b"metadata.jsonl", b"metadata.parquet")
"""Files that may hold the labels of an image folder, by the convention of Hugging Face."""
READ_LIMIT = 2**32  # bytes of an encoded image; larger files are not read into memory


class ImageFiles:
    """An image source over files.

    Unless labels are given, the label of an image is the first folder of its name below ``shared``, if every image has one
    there; otherwise there are no labels.

    Args:
        root: Folder to which names are relative (absolute names are used as they are).
        names: One name per image.
        shared: Common prefix of all names, down to the level of the class folders: empty, or ends in a slash.
        ordered: Whether the names are in byte order.
        given: Labels, in place of those by folders.
        image_remarks: Lines about what was left out.
    """

    def __init__(
        self,
        root: bytes,
        names: FileNames,
        shared: bytes = b"",
        *,
        ordered: bool = False,
        given: ImageLabels | None = None,
        image_remarks: tuple[str, ...] = (),
    ) -> None:
        self.image_remarks = image_remarks
        self._root = root
        self._names = names
        self._shared = shared
        self._ordered = ordered
        self._given = _folder_labels(root, names, shared, ordered) if given is None else given
        self.labels, self.classes = self._given.numbers, self._given.classes
        self.label_matrix, self.label_notes = self._given.matrix, self._given.notes

    @property
    def root(self) -> str:
        """The folder to which names are relative."""
        return printable(self._root)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> bytes:
        """An encoded image.

        Raises:
            BadImage: The file is missing or cannot be read.
        """
        return read_file(self.path(index))

    def name(self, index: int) -> str:
        """The path of an image below the root, or as it is in the list."""
        return self._names[index]

    def path(self, index: int) -> bytes:
        """The path of the file of an image."""
        return os.path.join(self._root, self._names.raw(index))  # noqa: PTH118 -- bytes

    def label(self, index: int) -> int | None:
        """The class number of an image, or None."""
        return label_at(self.labels, index)

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

    def stored_table(self) -> pa.Table | None:
        """What `stored_files` gives, as a table, in a fraction of the time; None if a name is absolute or a file is missing."""
        if not self._ordered and any(name[:1] == b"/" for name in self._names):
            return None
        inner = self._inner_folder()
        try:
            folder = os.open(os.path.join(self._root, inner), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH118 -- bytes
        except OSError:
            return None
        try:
            below = (name[len(inner) :] for name in self._names) if inner else self._names
            sizes = [os.stat(name, dir_fd=folder).st_size for name in below]
        except OSError:
            return None
        finally:
            os.close(folder)
        return stored_table(self._names.as_arrow(), sizes, self._root)

    def _inner_folder(self) -> bytes:
        """The folder below the root, with its slash, that holds all images: walking to it for each one takes time."""
        if not self._ordered or not len(self._names):
            return b""
        return _shared_folder([self._names.raw(0), self._names.raw(len(self._names) - 1)])


def open_folder(folder: str, columns: Columns = ANY_COLUMNS) -> ImageFiles:
    """Open all images below a folder, in the byte order of their paths; hidden files and folders are skipped.

    A ``metadata.csv``, ``.jsonl`` or ``.parquet`` in it with the column ``file_name`` (Hugging Face's convention) and one of
    labels gives the labels; otherwise its first level of folders does.

    Raises:
        NoImages: No file in it has the name of an image.
        UserError: A folder in it cannot be listed.
    """
    root, left = os.fsencode(Path(folder).absolute()), LeftOut()
    names = FileNames(chain.from_iterable(walk(root, left)))
    if len(names):
        given = _metadata_labels(root, names, columns)
        if given is not None:
            left.counts -= Counter([kind_of(given.notes.origin.partition(",")[0].encode())])  # the table is used
        remarks = (*left.remarks(folder), *_first_remarks(folder, root, names, columns))
        return ImageFiles(root, names, ordered=True, given=given, image_remarks=remarks)
    hint = where_to_look(folder, left)
    if hint is not None:
        raise NoImages(f"{folder}: no image in this folder, but {hint}")
    what = f"it holds {left}" if left.counts else "it is empty"
    looked = f"no image in this folder or below it (looked for {', '.join(IMAGE_SUFFIXES)})"
    raise NoImages("; ".join([f"{folder}: {looked}: {what}", *left.unlisted[:1]]))


def open_list(path: str, columns: Columns = ANY_COLUMNS) -> ImageFiles:
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
    root = os.fsencode(Path(path).absolute().parent)
    return ImageFiles(root, names, _shared_folder(names), image_remarks=_first_remarks(path, root, names, columns))


def open_files(paths: Iterable[str], columns: Columns = ANY_COLUMNS) -> ImageFiles:
    """Open image files that were given one by one (or found by a glob), in the byte order of their paths."""
    ordered = sorted(os.fsencode(Path(path).absolute()) for path in paths)
    shared = _shared_folder(ordered)
    names = FileNames(path.removeprefix(shared) for path in ordered)
    remarks = _first_remarks(printable(shared), shared, names, columns)
    return ImageFiles(shared, names, ordered=True, image_remarks=remarks)


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


def _first_remarks(where: str, root: bytes, names: FileNames, columns: Columns) -> tuple[str, ...]:
    """Lines about files of which only the first frame or page is read."""
    return (*frames_remark(where, root, names), *pages_remark(where, root, names, columns))


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


def _folder_labels(root: bytes, names: FileNames, shared: bytes, ordered: bool) -> ImageLabels:
    """Number the first folder of each name after ``shared``, in sorted order; no labels if one name has none.

    If the names are in byte order, those in one folder follow each other, and their end is searched.
    """
    known: dict[bytes, int] = {}
    codes, counts = array("q"), array("q")
    start, skip = 0, len(shared)
    while start < len(names):
        name = names.raw(start)
        folder, slash, _ = name[skip:].partition(b"/")
        if not (folder and slash):
            return ImageLabels(notes=LabelNotes(absent="its images are not all in class folders"))
        after = name[:skip] + folder + bytes([slash[0] + 1])  # the next name after all in this folder
        stop = bisect_left(range(len(names)), after, lo=start, key=names.raw) if ordered else start + 1
        codes.append(known.setdefault(folder, len(known)))
        counts.append(stop - start)
        start = stop
    classes = sorted(known)
    numbers = np.empty(len(known), dtype=np.int32)
    numbers[[known[folder] for folder in classes]] = np.arange(len(known))
    where = printable(os.path.join(root, shared)).rstrip("/")  # noqa: PTH118 -- bytes
    labels = np.repeat(numbers[np.array(codes)], np.array(counts))
    return ImageLabels(labels, tuple(map(printable, classes)), None, LabelNotes("folders", where))


def _metadata_labels(root: bytes, names: FileNames, columns: Columns) -> ImageLabels | None:
    """The labels in the metadata of a folder; None if there is none, or if it has no labels."""
    for name in METADATA:
        path = os.path.join(root, name)  # noqa: PTH118 -- bytes
        if os.path.isfile(path):  # noqa: PTH113 -- bytes
            try:
                table = read_table(os.fsdecode(path))
                listed = [names[place] for place in range(len(names))]
                found = matched_labels(listed, printable(root), table, columns)
            except UserError:
                if columns.label is not None:
                    raise
            else:
                return found if found.notes.origin else None
    return None
