"""The names of all images below a folder, a folder at a time: millions of them with few operations for each."""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from coterie.data.sources.file_names import IMAGE_SUFFIXES, is_image_name, printable
from coterie.data.sources.left_out import HIDDEN_FOLDERS, NO_FILES, NO_TARGET, LeftOut
from coterie.errors import UserError

# The last four bytes of most names of images.
_ENDS = frozenset(
    spelled.encode() for suffix in IMAGE_SUFFIXES if len(suffix) == 4 for spelled in (suffix, suffix.upper())
)
_DOT, _SLASH = b".", b"/"
_AFTER_DOT = b"/"  # what comes next after "." in byte order


def walk(root: bytes, left_out: LeftOut | None = None) -> Iterator[Sequence[bytes]]:
    """The relative paths of all images below a folder, in byte order, in sequences of any length.

    Hidden files and folders are skipped. A link to a folder is followed unless it leads back to a folder that is being
    walked. A folder below that cannot be listed is passed over.

    Args:
        root: The folder.
        left_out: Receives what is passed over.

    Raises:
        UserError: The folder itself cannot be listed.
    """
    left = LeftOut() if left_out is None else left_out
    try:
        waiting = [(iter(_runs(b"", *_entries(root, b"", left))), _identity(root))]
    except OSError as error:
        raise UserError(f"{printable(root)}: cannot list this folder: {error.strerror}") from error
    while waiting:
        run = next(waiting[-1][0], None)
        if run is None:
            waiting.pop()
        elif not (len(run) == 1 and run[0].endswith(_SLASH)):
            yield run
        else:
            folder = os.path.join(root, run[0])  # noqa: PTH118 -- bytes
            try:
                identity = _identity(folder)
                if all(identity != other for _, other in waiting):
                    waiting.append((iter(_runs(run[0], *_entries(folder, run[0], left))), identity))
            except OSError as error:
                left.unlisted.append(f"{printable(folder)}: cannot list this folder, passed over: {error.strerror}")


def _entries(folder: bytes, below: bytes, left: LeftOut) -> tuple[list[bytes], list[bytes]]:
    """Images and subfolders (ending in a slash) of a folder, each sorted; counts everything else.

    Raises:
        OSError: It cannot be listed.
    """
    with os.scandir(folder) as found:
        entries = list(found)
    try:
        folders = [entry.name for entry in entries if entry.is_dir()]
        no_files = [entry for entry in entries if not entry.is_file()]
    except OSError:
        folders = [entry.name for entry in entries if _is(entry.is_dir)]
        no_files = [entry for entry in entries if not _is(entry.is_file)]
    names = [entry.name for entry in entries]
    if no_files:
        inside = set(folders)
        left.counts.update(
            _odd_kind(entry) for entry in no_files if entry.name not in inside and entry.name[:1] != _DOT
        )
        inside.update(entry.name for entry in no_files)
        names = [name for name in names if name not in inside]
    images = sorted(names if _all_images(names) else filter(is_image_name, names))
    first = bisect_left(images, _DOT)
    del images[first : bisect_left(images, _AFTER_DOT, first)]  # hidden ones
    if len(images) < len(names):
        _count_others(below, names, left)
    visible = [name for name in folders if not name.startswith(_DOT)]
    if len(visible) < len(folders):
        left.counts[HIDDEN_FOLDERS] += len(folders) - len(visible)
    return images, sorted(name + _SLASH for name in visible)


def _count_others(below: bytes, names: Sequence[bytes], left: LeftOut) -> None:
    """Count what is not an image; hidden files only if they have the name of one, as other hidden files are a system's."""
    others = (name for name in names if not is_image_name(name))
    left.add_names(below, (name for name in others if not name.startswith(_DOT) or is_image_name(name.lstrip(_DOT))))


def _odd_kind(entry: os.DirEntry[bytes]) -> str:
    return NO_TARGET if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILES  # noqa: PTH110 -- bytes


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


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _identity(folder: bytes) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 -- bytes
    return status.st_dev, status.st_ino
