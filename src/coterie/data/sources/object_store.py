"""Shards on anything that fsspec reads (``s3://``, ``gs://``, ``hf://`` ...), with patience for a store that stays away."""

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from coterie.data.sources.local_cache import cache_limit, find_copy, make_copy
from coterie.errors import BadImage, NoImages, UserError

Value = TypeVar("Value")

PATIENCE_SECONDS = 300.0
"""How long a store may stay away while images are read; the loader's watchdog waits longer."""
OPENING_SECONDS = 30.0
"""How long it may stay away when shards are looked for."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 20.0  # seconds between two tries
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_VERSIONS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """One file in a store, as it was when it was opened.

    Attributes:
        path: its URL.
        size: in bytes.
        version: whatever the store says that changes when the file does.
    """

    path: str
    size: int
    version: str

    @property
    def key(self) -> str:
        """A name for what is derived from this version of the file, the same on every machine."""
        return hashlib.sha256(f"{self.path}\0{self.size}\0{self.version}".encode()).hexdigest()[:32]

    def from_copy(self, offset: int, size: int) -> bytes | None:
        """Some bytes of it from the copy; None if there is none."""
        copy = find_copy(self.key)
        if copy is None:
            return None
        try:
            with copy.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:  # it has just made room for another
            return None

    def from_store(self, offset: int, size: int) -> bytes:
        """Some bytes of it, asked for alone.

        Raises:
            BadImage: the file is gone.
            UserError: the store stays away.
        """
        store, place = store_of(self.path)
        return bytes(self.patiently(lambda: store.cat_file(place, start=offset, end=offset + size) if size else b""))

    def prefetch(self) -> None:
        """Copy it whole to this machine, unless there is a copy.

        Raises:
            BadImage: the file is gone, or not the one that was opened.
            UserError: the store stays away, or there is no room.
        """
        make_copy(self.key, self.size, self.download)

    def try_to_bring(self) -> None:
        """As `bring`, but for what can do without: if there is room, and no other process is just at it.

        Raises:
            BadImage: as of `bring`.
        """
        try:
            make_copy(self.key, self.size, self.download, wait=False)
        except BadImage:
            raise
        except UserError:  # a store that stays away is told by who asks for single images
            return

    def opened(self) -> IO[bytes]:
        """The copy, opened; made if need be.

        Raises:
            BadImage: as of `bring`.
            UserError: likewise.
        """
        while True:
            self.prefetch()
            copy = find_copy(self.key)
            if copy is not None:
                try:
                    return copy.open("rb")
                except FileNotFoundError:  # it has just made room for another
                    continue

    def download(self, target: Path) -> None:
        """Write it whole to a path.

        Raises:
            BadImage: as of `bring`.
            UserError: the store stays away.
            OSError: this machine's disk is full.
        """
        store, place = store_of(self.path)

        def whole() -> None:
            store.invalidate_cache()
            if _version(store.info(place)) != self.version:
                raise BadImage(f"{self.path} has changed since it was opened")
            store.get_file(place, str(target))

        self.patiently(whole)
        if target.stat().st_size != self.size:
            raise BadImage(f"{self.path} has changed since it was opened")

    def patiently(self, call: Callable[[], Value]) -> Value:
        """As `patiently`, for reading images.

        Raises:
            BadImage: the file is gone.
            UserError: the store refuses, or stays away.
        """
        try:
            return patiently(self.path, call)
        except FileNotFoundError as error:
            raise BadImage(f"{self.path} is gone") from error


def is_remote(spec: str) -> bool:
    """Whether it is an address in a store, and no path."""
    return "://" in spec


def store_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, as fsspec has it in this process, and the path in it.

    Raises:
        UserError: fsspec, or what it needs for this kind of store, is not installed; or it knows no such kind.
    """
    try:
        import fsspec.core

        store, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url}: reading this store needs more packages: pip install 'coterie[remote]' ({' '.join(str(error).split())})"
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: not an address that fsspec can read ({' '.join(str(error).split())})") from error
    return store, path


def list_store(url: str) -> list[str]:
    """The addresses of the files that a URL means, which may be a glob; in byte order.

    Raises:
        NoImages: there is nothing.
        UserError: the store stays away, or refuses; or the size of the cache is no number.
    """
    cache_limit()  # better now than when a copy first needs room
    store, path = store_of(url)

    def listed() -> list[str]:
        store.invalidate_cache()
        names = store.glob(path) if any(sign in path for sign in "*?[") else [store.info(path)["name"]]
        return sorted((store.unstrip_protocol(name) for name in names), key=str.encode)

    try:
        urls = patiently(url, listed, OPENING_SECONDS)
    except FileNotFoundError:
        urls = []
    if not urls:
        raise NoImages(f"{url}: nothing is there; see how the bucket and the pattern are spelled")
    return urls


def located(url: str) -> RemoteShard:
    """The file of a URL, with its size and version as of now.

    Raises:
        UserError: it is not there; or the store stays away, or refuses.
    """
    store, path = store_of(url)
    try:
        info = patiently(url, lambda: store.info(path), OPENING_SECONDS)
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file in the store") from error
    return RemoteShard(url, int(info["size"]), _version(info))


def opened_stream(url: str) -> Any:
    """A file in a store, opened to read parts of it.

    Raises:
        Exception: whatever the store says (see `patiently`).
    """
    store, place = store_of(url)
    return store.open(place, "rb", cache_type="none")


def patiently(url: str, call: Callable[[], Value], patience: float | None = None) -> Value:
    """What a call to a store gives; it is tried again for ``patience`` seconds, at growing intervals.

    Without ``patience``: as long as may be while images are read.

    Raises:
        FileNotFoundError: the store says that there is no such thing.
        UserError: the store refuses, or stays away.
        OSError: this machine's disk is full.
    """
    mend = "see to the network and to the address of the store"
    if patience is None:
        patience, mend = PATIENCE_SECONDS, "when it does, the same command goes on from the last checkpoint"
    began, wait, waits = time.monotonic(), _FIRST_WAIT, random.SystemRandom()  # no generator of the run is touched
    while True:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # every store has kinds of errors of its own
            said = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
                raise UserError(f"{url}: the store does not give this out ({said}): see to its credentials") from error
            if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
                raise
            spent = time.monotonic() - began
            if spent + wait > patience:
                raise UserError(
                    f"{url}: the store has not answered for {spent:.0f} seconds ({said}); {mend}"
                ) from error
        time.sleep(wait * waits.uniform(0.5, 1.0))  # processes do not all come back in the same moment
        wait = min(2 * wait, _LONGEST_WAIT)


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
