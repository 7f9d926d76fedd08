"""The files of a tar archive as they would be if it were unpacked: links, files with holes, archives one after another."""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from coterie.data.sources.file_names import is_image_name, printable
from coterie.data.sources.left_out import NO_FILES, LeftOut, archive_kind, how_to_unpack, kind_of
from coterie.data.sources.tar_headers import members, stored_pieces
from coterie.errors import UserError

LINKS = "links to what it does not hold"
REPLACED = "replaced by a later file of the same name"
_CHUNK = 2**20  # bytes that are read at once in search of a further archive
_MOST_LINKS = 40  # that lead from one to the next, as in Linux


class Stored(NamedTuple):
    """Where a file is in an archive.

    Attributes:
        offset: of its first byte.
        size: in bytes.
        pieces: of a file with holes: where its stored bytes belong, as position and length, one after another; else None.
    """

    offset: int
    size: int
    pieces: list[int] | None = None


@dataclass
class Archive:
    """The files of one archive that may be images or labels.

    Attributes:
        files: by name, in the order of the archive; of several of one name, the last.
        links: the names of symbolic links, with what they lead to.
    """

    files: dict[bytes, Stored] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)


def archives(file: IO[bytes], path: str, left: LeftOut) -> Iterator[Archive]:
    """The archives in a file, which may follow each other, as ``cat`` and ``tar --concatenate`` leave them.

    Args:
        file: The file, opened.
        path: Its name in errors.
        left: Receives what is neither image nor label.

    Raises:
        UserError: It is compressed, truncated, damaged or not a tar archive.
    """
    position: int | None = 0
    try:
        while position is not None:
            file.seek(position)
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                archive = _read(tar, file, path, left)
                end = tar.offset
            yield archive
            position = _next_archive(file, path, position, end)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # tarfile may raise anything on a broken header
        raise UserError(f"{path}: {_complaint(file, path, error)}") from error


def _read(tar: tarfile.TarFile, file: IO[bytes], path: str, left: LeftOut) -> Archive:
    archive = Archive()
    for name, offset, size, special in members(tar, file.fileno()):
        name = _plain(name)
        if special is None:
            _keep(archive, name, Stored(offset, size), left)
        elif special.issym() or special.islnk():
            target = special.linkname.encode("utf-8", "surrogateescape")
            _keep_link(archive, name, target, special.issym(), left)
        elif special.isreg():
            try:
                pieces = [number for piece in stored_pieces(special, tar.offset) for number in piece]
            except ValueError as error:
                raise UserError(
                    f"{path}: {printable(name)} is a sparse file, and {error}: unpack it with tar"
                ) from error
            _keep(archive, name, Stored(offset, size, pieces), left)
        elif special.type not in (b"V", b"g", b"x"):  # the label of a volume; headers
            left.counts[NO_FILES if special.isdev() else "members of an unknown type"] += 1
    _follow(archive, left)
    return archive


def is_label_name(name: bytes) -> bool:
    """Whether a file holds the label of the image beside it, by its name."""
    return name.lower().endswith((b".cls", b".json"))


def _keep(archive: Archive, name: bytes, stored: Stored, left: LeftOut) -> None:
    if _matters(archive, name, left):
        archive.files[name] = stored


def _matters(archive: Archive, name: bytes, left: LeftOut) -> bool:
    """Whether a file may be an image or a label; if so, it replaces an earlier one of its name, as unpacking it does."""
    image = is_image_name(name)
    if image or is_label_name(name):
        if archive.files.pop(name, None) or archive.links.pop(name, None):
            left.counts[REPLACED] += image
        return True
    last = name.rpartition(b"/")[2]
    if not last.startswith(b".") or is_image_name(last.lstrip(b".")):
        left.counts[kind_of(name)] += 1
    return False


def _keep_link(archive: Archive, name: bytes, target: bytes, symbolic: bool, left: LeftOut) -> None:
    """Keep a symbolic link until all files are known; a hard link is the file that has its target's name by now."""
    stored, linked = archive.files.get(_plain(target)), archive.links.get(_plain(target))
    if not (is_image_name(name) or is_label_name(name)) or not (symbolic or stored or linked):
        left.counts[LINKS] += 1
    elif _matters(archive, name, left):
        if stored is not None and not symbolic:
            archive.files[name] = stored
        else:
            leads = posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if symbolic else linked
            archive.links[name] = leads or b""


def _follow(archive: Archive, left: LeftOut) -> None:
    """Put in place of symbolic links the files that they lead to."""
    found: dict[bytes, Stored] = {}
    for name, target in archive.links.items():
        for _ in range(_MOST_LINKS):
            if target not in archive.links:
                break
            target = archive.links[target]
        if target in archive.files:
            found[name] = archive.files[target]
        else:
            left.counts[LINKS] += 1
    archive.files |= found


def _next_archive(file: IO[bytes], path: str, start: int, end: int) -> int | None:
    """Where the archive after the one that ended here begins; None if only zeros follow."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block):  # tarfile takes a broken header for the end
        if end == start:
            raise UserError(
                f"{path}: what follows the end of the archive at byte {start} is no tar archive: fetch it again, or cut it off "
                f"with truncate -s {start}"
            )
        raise UserError(f"{path}: this tar archive is damaged at byte {end}; fetch it again")
    position = end + len(block)
    while chunk := file.read(_CHUNK):
        rest = chunk.lstrip(b"\0")
        if rest:
            return position + len(chunk) - len(rest)
        position += len(chunk)
    return None


def _plain(name: bytes) -> bytes:
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name


def _complaint(file: IO[bytes], path: str, error: Exception) -> str:
    file.seek(0)
    kind = archive_kind("", file.read(8))
    if kind is not None:
        if kind.startswith(".tar"):
            what = "this tar archive is compressed, which rules out random access to images"
        else:
            what = f"this is a {kind} archive"
        return what if "://" in path else f"{what}; {how_to_unpack(path, kind)}"
    return f"not a complete tar archive ({' '.join(str(error).split()) or type(error).__name__}); fetch it again"
