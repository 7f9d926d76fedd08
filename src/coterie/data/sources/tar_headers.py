"""Reading the headers of a tar archive: nearly all look alike and are read quickly; all others are left to tarfile."""

import os
import re
import sys
import tarfile
from collections.abc import Iterator
from typing import Any
from zlib import adler32

_BLOCK = tarfile.BLOCKSIZE
_NUMBER = rb"(?:[0-7]{7}[ \0]|[0-7]{6} \0)"
# A regular file (0) or an extended header (x) as written by GNU tar, bsdtar, Python and star: name, mode, uid and gid,
# size, mtime, checksum, type, linkname, magic, uname and gname, devmajor and devminor, and no prefix of the name.
_HEADER = re.compile(
    rb"(?=([^\0]+)).{100}" + 3 * _NUMBER + rb"([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})(?:\0 | \0)([0x]).{100}"
    rb"ustar(?:\x0000|  \0).{64}(?:" + 2 * _NUMBER + rb"|\0{16})\0",
    re.DOTALL,
)
_SPARSE = ("GNU.sparse.", "SCHILY.realsize")  # extended headers of files with holes
_TIME = re.compile(rb"[0-9]{2} [acm]time=-?[0-9]+(?:\.[0-9]+)?\n")


def members(tar: tarfile.TarFile, descriptor: int) -> Iterator[tuple[bytes, int, int, tarfile.TarInfo | None]]:
    """Name, offset and size in bytes of the members of an archive that was just opened, in its order, without folders.

    Those that are not plain files come with what tarfile knows of them: links, sparse files, devices.

    At the end, ``tar.offset`` is where the next header would be.

    Args:
        tar: The archive, uncompressed and opened for reading.
        descriptor: Descriptor of its file.

    Raises:
        tarfile.TarError: As `tarfile.TarFile.next` does.
        OSError: It cannot be read.
    """
    member = tar.next()
    while member is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or it would keep a record of every file
        if not member.isdir():
            plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) and not _may_be_sparse(member)
            name = member.name.encode("utf-8", "surrogateescape")
            yield name, member.offset_data, member.size, None if plain else member
        while not tar.pax_headers and (file := _common_file(descriptor, tar.offset)) is not None:
            yield *file, None
            tar.offset = file[1] + -(-file[2] // _BLOCK) * _BLOCK
        member = tar.next()


def stored_pieces(member: tarfile.TarInfo, next_header: int) -> list[tuple[int, int]]:
    """Where the stored bytes of a sparse file belong: position in the file and length, one after another.

    Args:
        member: The file.
        next_header: Where tarfile expects the header after it.

    Raises:
        ValueError: The map does not fit the file, or is of a kind that is not known.
    """
    holes: Any = member.sparse or ()
    pieces = [(start, length) for start, length in holes if length]
    stored, end, fits = 0, 0, member.sparse is not None
    for start, length in pieces:
        fits = fits and length > 0 and start >= end
        stored, end = stored + length, start + length
    if not fits or end > member.size or member.offset_data + -(-stored // _BLOCK) * _BLOCK != next_header:
        raise ValueError("its map of holes cannot be read")
    return pieces


def _may_be_sparse(member: tarfile.TarInfo) -> bool:
    return member.sparse is not None or any(key.startswith(_SPARSE) for key in member.pax_headers)


def _common_file(descriptor: int, position: int) -> tuple[bytes, int, int] | None:
    """Name, offset and size of the file whose header is at a position, if it has the common form.

    It may be preceded by an extended header that holds only times, as Python writes for times with a fraction.
    """
    if position > sys.maxsize:  # after a file of an absurd size, which tarfile refuses
        return None
    blocks = os.pread(descriptor, 3 * _BLOCK, position)
    header = _common_header(blocks)
    if header is not None and header[2] == b"x" and header[1] <= _BLOCK:
        records = blocks[_BLOCK : _BLOCK + header[1]].splitlines(keepends=True)
        if not all(_TIME.fullmatch(record) and int(record[:2]) == len(record) for record in records):
            return None
        length = _BLOCK + -(-header[1] // _BLOCK) * _BLOCK
        header, position = _common_header(blocks[length:]), position + length
    return None if header is None or header[2] == b"x" else (header[0], position + _BLOCK, header[1])


def _common_header(blocks: bytes) -> tuple[bytes, int, bytes] | None:
    """Name, size and type from the first block, if it has the common form and a correct checksum."""
    match = _HEADER.match(blocks)
    if match is None:
        return None
    name, size, checksum, kind = match.groups()
    # The lower half of adler32 is one more than the sum of the bytes, as long as that is less than 65,521.
    total = (adler32(blocks[:256]) & 0xFFFF) + (adler32(blocks[256:_BLOCK]) & 0xFFFF) - 2
    if total - sum(blocks[148:156]) + 8 * ord(" ") != int(checksum, 8) or len(blocks) < _BLOCK:
        return None
    return name[:100], int(size, 8), kind
