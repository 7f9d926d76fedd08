"""The names of all images below a folder, a folder at a time: millions of them with few operations for each."""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from coterie.data.sources.file_names import IMAGE_SUFFIXES, is_image_name, printable
from coterie.errors import UserError

# The last four bytes of most names of images.
_ENDS = frozenset(
    spelled.encode() for suffix in IMAGE_SUFFIXES if len(suffix) == 4 for spelled in (suffix, suffix.upper())
)
_DOT, _SLASH = b".", b"/"
_AFTER_DOT = b"/"  # what comes next after "." in byte order


def walk(root: bytes) -> Iterator[Sequence[bytes]]:
    """The relative paths of all images below a folder, in byte order, in sequences of any length.

    Hidden files and folders are skipped. A link to a folder is followed unless it leads back to a folder that is being
    walked.

    Raises:
        UserError: A folder cannot be listed.
    """
    waiting = [(iter(_runs(b"", *_entries(root))), _identity(root))]
    while waiting:
        run = next(waiting[-1][0], None)
        if run is None:
            waiting.pop()
        elif not (len(run) == 1 and run[0].endswith(_SLASH)):
            yield run
        else:
            folder = os.path.join(root, run[0])  # noqa: PTH118 -- bytes
            identity = _identity(folder)
            if all(identity != other for _, other in waiting):
                waiting.append((iter(_runs(run[0], *_entries(folder))), identity))


def _entries(folder: bytes) -> tuple[list[bytes], list[bytes]]:
    """Images and subfolders (ending in a slash) of a folder, each sorted."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
        try:
            folders = [entry.name for entry in entries if entry.is_dir()]
        except OSError:
            folders = [entry.name for entry in entries if _is_folder(entry)]
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot list this folder: {error.strerror}") from error
    names = [entry.name for entry in entries]
    if folders:
        inside = set(folders)
        names = [name for name in names if name not in inside]
    images = sorted(names if _all_images(names) else filter(is_image_name, names))
    first = bisect_left(images, _DOT)
    del images[first : bisect_left(images, _AFTER_DOT, first)]  # hidden ones
    return images, sorted(name + _SLASH for name in folders if not name.startswith(_DOT))


def _all_images(names: Sequence[bytes]) -> bool:
    """Whether all names end as the first one does, and this is how images end: seen at once, and so in most folders."""
    end = names[0][-4:] if names else b""
    return end in _ENDS and (_SLASH.join(names) + _SLASH).count(end + _SLASH) == len(names)


def _runs(prefix: bytes, images: Sequence[bytes], folders: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The paths of images between subfolders, and each subfolder alone; in this order, whole paths come in byte order."""
    done = 0
    for folder in folders:
        until = done
        while until < len(images) and images[until] < folder:
            until += 1
        if until > done:
            yield [prefix + name for name in images[done:until]]
        yield (prefix + folder,)
        done = until
    if done < len(images):
        yield [prefix + name for name in images[done:]]


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
