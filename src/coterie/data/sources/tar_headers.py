"""Reading the headers of a tar archive: nearly all look alike and are read quickly; all others are left to tarfile."""

import os
import re
import sys
import tarfile
from collections.abc import Iterator
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
_TIME = re.compile(rb"[0-9]{2} [acm]time=-?[0-9]+(?:\.[0-9]+)?\n")


def regular_files(tar: tarfile.TarFile, descriptor: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size in bytes of the regular files of an archive that was just opened, in its order.

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
        if member.isreg():
            yield member.name.encode("utf-8", "surrogateescape"), member.offset_data, member.size
        while not tar.pax_headers and (file := _common_file(descriptor, tar.offset)) is not None:
            yield file
            tar.offset = file[1] + -(-file[2] // _BLOCK) * _BLOCK
        member = tar.next()


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
