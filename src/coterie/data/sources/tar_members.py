"""The files of a tar archive as they are once it is unpacked: links, files with holes, archives one after another."""

import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from coterie.data.sources.file_names import is_image_name, printable
from coterie.data.sources.left_out import NO_FILES, LeftOut, archive_kind, how_to_unpack, kind_of
from coterie.data.sources.tar_headers import members, stored_pieces
from coterie.errors import UserError

LINKS = "links to what it does not hold"
UNKNOWN = "members of an unknown type"
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
    """The files of an archive that may be images or labels, or of a part of it in which each name occurs once.

    Attributes:
        first: whether this is where an archive begins.
        files: by name, in the order of the archive.
        links: the names of symbolic links, with what they lead to.
    """

    first: bool = True
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
                yield from _parts(tar, file, path, left)
                end = tar.offset
            position = _next_archive(file, path, position, end)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # tarfile may raise anything on a broken header
        raise UserError(f"{path}: {_complaint(file, path, error)}") from error


def is_label_name(name: bytes) -> bool:
    """Whether a file holds the label of the image beside it, by its name."""
    return name.lower().endswith((b".cls", b".json"))


def _parts(tar: tarfile.TarFile, file: IO[bytes], path: str, left: LeftOut) -> Iterator[Archive]:
    """An archive; where a name occurs again, a new part begins, as where two shards were joined."""
    part, earlier = Archive(), dict[bytes, Stored]()
    for name, offset, size, special in members(tar, file.fileno()):
        name = _plain(name)
        image = is_image_name(name)
        if not image and not is_label_name(name):
            _count_other(name, special, left)
            continue
        if name in part.files or name in part.links:
            yield _followed(part, earlier, left)
            earlier |= part.files
            part = Archive(first=False)
        if special is None:
            part.files[name] = Stored(offset, size)
        elif special.issym():
            part.links[name] = _leads_to(name, special)
        elif special.islnk():
            _keep_hard_link(name, special, part, earlier, left)
        elif special.isreg():
            part.files[name] = Stored(offset, size, _pieces(special, name, path, tar.offset))
        else:
            left.counts[NO_FILES if special.isdev() else UNKNOWN] += 1
            continue
        left.repeated += image and name in earlier
    yield _followed(part, earlier, left)


def _count_other(name: bytes, special: tarfile.TarInfo | None, left: LeftOut) -> None:
    """Count what is neither image nor label; hidden files only if they have the name of an image."""
    last = name.rpartition(b"/")[2]
    if special is not None and special.type in (b"V", b"g", b"x"):  # the label of a volume; headers
        return
    if last.startswith(b".") and not is_image_name(last.lstrip(b".")):
        return
    if special is None or special.isreg():
        left.counts[kind_of(name)] += 1
    else:
        left.counts[LINKS if special.issym() or special.islnk() else NO_FILES if special.isdev() else UNKNOWN] += 1


def _pieces(special: tarfile.TarInfo, name: bytes, path: str, next_header: int) -> list[int]:
    try:
        return [number for piece in stored_pieces(special, next_header) for number in piece]
    except ValueError as error:
        raise UserError(f"{path}: {printable(name)} is a sparse file, and {error}: unpack it with tar") from error


def _leads_to(name: bytes, special: tarfile.TarInfo) -> bytes:
    target = special.linkname.encode("utf-8", "surrogateescape")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _keep_hard_link(
    name: bytes, special: tarfile.TarInfo, part: Archive, earlier: Mapping[bytes, Stored], left: LeftOut
) -> None:
    """A hard link is what has the name of its target by then."""
    target = _plain(special.linkname.encode("utf-8", "surrogateescape"))
    stored = part.files.get(target, earlier.get(target))
    if stored is not None:
        part.files[name] = stored
    elif target in part.links:
        part.links[name] = part.links[target]
    else:
        left.counts[LINKS] += 1


def _followed(part: Archive, earlier: Mapping[bytes, Stored], left: LeftOut) -> Archive:
    """Put in place of symbolic links the files that they lead to."""
    found: dict[bytes, Stored] = {}
    for name, target in part.links.items():
        for _ in range(_MOST_LINKS):
            if target not in part.links:
                break
            target = part.links[target]
        stored = part.files.get(target, earlier.get(target))
        if stored is None:
            left.counts[LINKS] += 1
        else:
            found[name] = stored
    part.files |= found
    return part


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


def with_holes(stored: bytes, size: int, pieces: Sequence[int]) -> bytes:
    """A file with zeros in its holes.

    Args:
        stored: What an archive stores of it.
        size: Of the whole file, in bytes.
        pieces: Where the stored bytes belong: position and length, one after another.
    """
    parts, end, used = [], 0, 0
    for start, length in zip(pieces[::2], pieces[1::2], strict=True):
        parts += [bytes(start - end), stored[used : used + length]]
        end, used = start + length, used + length
    return b"".join([*parts, bytes(size - end)])
