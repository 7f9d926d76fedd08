"""The headers of a tar archive: nearly all of them are alike and are read at once; whatever else there is, is tarfile's."""

import os
import re
import sys
import tarfile
from collections.abc import Iterator
from zlib import adler32

_BLOCK = tarfile.BLOCKSIZE
_NUMBER = rb"(?:[0-7]{7}[ \0]|[0-7]{6} \0)"
# An ordinary file (0), or an extended header (x), as GNU tar, bsdtar, Python and star write them: name, mode, uid and gid,
# size, mtime, checksum, kind, linkname, magic, uname and gname, devmajor and devminor, and nothing more of the name.
_HEADER = re.compile(
    rb"(?=([^\0]+)).{100}" + 3 * _NUMBER + rb"([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})(?:\0 | \0)([0x]).{100}"
    rb"ustar(?:\x0000|  \0).{64}(?:" + 2 * _NUMBER + rb"|\0{16})\0",
    re.DOTALL,
)
_TIME = re.compile(rb"[0-9]{2} [acm]time=-?[0-9]+(?:\.[0-9]+)?\n")


def ordinary_files(tar: tarfile.TarFile, descriptor: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of the ordinary files of an archive that was just opened, in its order.

    At the end ``tar.offset`` is where the next header would be.

    Args:
        tar: opened for reading, uncompressed.
        descriptor: of its file.

    Raises:
        tarfile.TarError: as of `tarfile.TarFile.next`.
        OSError: it cannot be read.
    """
    member = tar.next()
    while member is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep a record of every file
        if member.isreg():
            yield member.name.encode("utf-8", "surrogateescape"), member.offset_data, member.size
        while not tar.pax_headers and (found := _alike(descriptor, tar.offset)) is not None:
            yield found
            tar.offset = found[1] + -(-found[2] // _BLOCK) * _BLOCK
        member = tar.next()


def _alike(descriptor: int, place: int) -> tuple[bytes, int, int] | None:
    """Name, offset and size of the file whose header is at a place, if that is like nearly all headers.

    Before it there may be an extended header that says nothing but times, as Python writes for times with a fraction.
    """
    if place > sys.maxsize:  # after a file of an absurd size, which tarfile refuses
        return None
    blocks = os.pread(descriptor, 3 * _BLOCK, place)
    header = _header(blocks)
    if header is not None and header[2] == b"x" and header[1] <= _BLOCK:
        said = blocks[_BLOCK : _BLOCK + header[1]].splitlines(keepends=True)
        if not all(_TIME.fullmatch(line) and int(line[:2]) == len(line) for line in said):
            return None
        before = _BLOCK + -(-header[1] // _BLOCK) * _BLOCK
        header, place = _header(blocks[before:]), place + before
    return None if header is None or header[2] == b"x" else (header[0], place + _BLOCK, header[1])


def _header(blocks: bytes) -> tuple[bytes, int, bytes] | None:
    """Name, size and kind by the first block, if it is like nearly all headers and its checksum is right."""
    found = _HEADER.match(blocks)
    if found is None:
        return None
    name, size, checksum, kind = found.groups()
    # The lower half of adler32 is one more than the sum of the bytes, as long as that is less than 65,521.
    total = (adler32(blocks[:256]) & 0xFFFF) + (adler32(blocks[256:_BLOCK]) & 0xFFFF) - 2
    if total - sum(blocks[148:156]) + 8 * ord(" ") != int(checksum, 8) or len(blocks) < _BLOCK:
        return None
    return name[:100], int(size, 8), kind
