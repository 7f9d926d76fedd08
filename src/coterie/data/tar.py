"""Tar shards in the WebDataset convention, read at random through an index of byte offsets."""

import os
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from coterie.data.files import READ_LIMIT
from coterie.data.labels import Labels, classify
from coterie.data.names import Names, is_image_name
from coterie.errors import BadImage, NoImages, UserError

_KEPT_OPEN = 256  # shards whose descriptors a process keeps; any beyond are opened for each image
_LABEL_LIMIT = 1024  # bytes of a .cls file
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class TarShards:
    """An image source over tar shards, in the order of the shards and of the images in them.

    The key of a file is its path up to the first dot of its last part; what follows is the field: ``0001.jpg`` is the
    image of the key ``0001`` and ``0001.cls`` its label (an integer, or the name of a class). A key has one image, the
    first; a field of several parts (``0001.seg.png``) is an image only where the key has no plain one.

    Opening reads headers only. Images are read by `os.pread`, which moves no shared position, so that forked workers
    may use one source; each process opens its own shards.

    Raises:
        NoImages: there is no image in these shards.
        UserError: a shard is missing, compressed, cut short or no tar archive.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._descriptors: dict[int, int] = {}
        self._paths = tuple(str(Path(path).absolute()) for path in paths)
        self._offsets, self._sizes, self._starts = array("q"), array("q"), array("q", [0])
        labels: list[str | None] = []
        self._names = Names(self._index(paths, labels))
        if not len(self._names):
            raise NoImages(f"{', '.join(paths[:3])}: no image in {'this shard' if len(paths) == 1 else 'these shards'}")
        self.labels: Labels | None
        self.classes: tuple[str, ...]
        self.labels, self.classes = classify(_numbers(labels))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            BadImage: the shard is gone, or shorter than it was when it was opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        offset, size = self._offsets[index], self._sizes[index]
        if size > READ_LIMIT:
            raise BadImage(f"{size} bytes, more than are read of one image ({READ_LIMIT})")
        try:
            data = self._read(shard, size, offset)
        except OSError as error:
            raise BadImage(f"{self._paths[shard]} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise BadImage(f"{self._paths[shard]} has become shorter since it was opened")
        return data

    def __getstate__(self) -> dict[str, object]:
        """Descriptors belong to one process."""
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def name(self, index: int) -> str:
        """The image's path in its shard."""
        return self._names[index]

    def label(self, index: int) -> int | None:
        """The number of the image's class, or None."""
        return None if self.labels is None or self.labels[index] < 0 else int(self.labels[index])

    def files(self) -> tuple[bytes, ...]:
        """The paths of the shards."""
        return tuple(os.fsencode(path) for path in self._paths)

    def _index(self, paths: Sequence[str], labels: list[str | None]) -> Iterator[bytes]:
        """Write down where each image lies, and hand on its name."""
        for path in paths:
            for name, offset, size, label in _images(path):
                self._offsets.append(offset)
                self._sizes.append(size)
                labels.append(label)
                yield name
            self._starts.append(len(self._offsets))

    def _read(self, shard: int, size: int, offset: int) -> bytes:
        descriptor = self._descriptors.get(shard)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        descriptor = os.open(self._paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        if shard < _KEPT_OPEN and self._descriptors.setdefault(shard, descriptor) == descriptor:
            return os.pread(descriptor, size, offset)
        try:  # beyond what is kept, or another thread was first
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


def _images(path: str) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset, size and label of the images of one shard, in its order."""
    images: list[tuple[bytes, bytes, int, int]] = []  # key, name, offset, size
    plain: dict[bytes, bytes] = {}  # from the key to the name of its image
    labels: dict[bytes, str] = {}
    for name, offset, size, label in _members(path):
        folder, slash, last = name.rpartition(b"/")
        stem, _, field = last.partition(b".")
        key = folder + slash + stem
        if label is not None:
            labels[key] = label
        else:
            images.append((key, name, offset, size))
            if b"." not in field:
                plain.setdefault(key, name)
    for key, name, offset, size in images:
        if plain.get(key, name) == name:
            yield name, offset, size, labels.get(key)


def _members(path: str) -> Iterator[tuple[bytes, int, int, str | None]]:
    """Name, offset and size of the images of one shard, and of its label files with their text; links are left out."""
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar, Path(path).open("rb") as file:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep a record of every file
                name = member.name.encode("utf-8", "surrogateescape").removeprefix(b"./")
                if not member.isreg():
                    continue
                if is_image_name(name):
                    yield name, member.offset_data, member.size, None
                elif name.lower().endswith(b".cls") and member.size <= _LABEL_LIMIT:
                    label = os.pread(file.fileno(), member.size, member.offset_data)
                    yield name, member.offset_data, member.size, label.decode("utf-8", "replace").strip()
            if any(os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset)):  # tarfile takes a broken header for the end
                raise UserError(f"{path}: this tar archive is damaged at byte {tar.offset}; fetch it again")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except tarfile.TarError as error:
        raise UserError(f"{path}: {_complaint(path, error)}") from error


def _complaint(path: str, error: Exception) -> str:
    with Path(path).open("rb") as file:
        compressed = file.read(6).startswith(_COMPRESSED)
    if compressed:
        return "this tar archive is compressed, so that no image can be reached at random; unpack it to a plain .tar"
    return f"not a whole tar archive ({error}); fetch it again"


def _numbers(labels: list[str | None]) -> list[int | str | None]:
    """Labels as integers, if all of them are."""
    try:
        return [None if label is None else int(label) for label in labels]
    except ValueError:
        return list(labels)
