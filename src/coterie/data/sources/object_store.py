"""Shards in any store that fsspec reads (``s3://``, ``gs://``, ``hf://``, ...), retrying while it does not answer."""

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from coterie.data.sources.fingerprint import StoredFile
from coterie.data.sources.local_cache import cache_limit, find_copy, make_copy
from coterie.errors import BadImage, NoImages, UserError

_Answer = TypeVar("_Answer")

READ_RETRY_SECONDS = 300.0
"""How long to retry when images are read; the loader's watchdog waits longer."""
OPEN_RETRY_SECONDS = 30.0
"""How long to retry when shards are opened."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 20.0  # seconds between two attempts
_LOCAL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """One file in a store, in the version in which it was opened.

    Attributes:
        path: Its URL.
        size: Its size in bytes.
        version: A field of the store's metadata that changes when the file does.
    """

    path: str
    size: int
    version: str

    @property
    def key(self) -> str:
        """A name for what is derived from this version of the file, the same on every machine."""
        return hashlib.sha256(f"{self.path}\0{self.size}\0{self.version}".encode()).hexdigest()[:32]

    @property
    def stored_file(self) -> StoredFile:
        """The file as one of a source's, named below its folder in the store."""
        folder, _, name = self.path.rpartition("/")
        return StoredFile(os.fsencode(name), self.size, self.version, os.fsencode(folder))

    def read_copy(self, offset: int, size: int) -> bytes | None:
        """Read some bytes from the local copy; None if there is no copy."""
        copy = find_copy(self.key)
        if copy is None:
            return None
        try:
            with copy.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:  # it was just removed to make room
            return None

    def read_store(self, offset: int, size: int) -> bytes:
        """Read some bytes from the store, without copying the file.

        Raises:
            BadImage: The file no longer exists.
            UserError: The store does not answer.
        """
        store, path = filesystem(self.path)
        return bytes(self.retry(lambda: store.cat_file(path, start=offset, end=offset + size) if size else b""))

    def prefetch(self) -> None:
        """Copy the whole file to this machine, unless there is a copy.

        Raises:
            BadImage: The file no longer exists, or has changed.
            UserError: The store does not answer, or there is no room.
        """
        make_copy(self.key, self.size, self.download)

    def try_prefetch(self) -> None:
        """Copy the whole file if there is room for it and no other process is copying it; otherwise do nothing.

        Raises:
            BadImage: The file no longer exists, or has changed.
        """
        try:
            make_copy(self.key, self.size, self.download, wait=False)
        except BadImage:
            raise
        except UserError:  # a store that does not answer is reported when single images are read
            return

    def open(self) -> IO[bytes]:
        """Open the local copy, making it first if needed.

        Raises:
            BadImage: The file no longer exists, or has changed.
            UserError: The store does not answer, or there is no room.
        """
        while True:
            self.prefetch()
            copy = find_copy(self.key)
            if copy is not None:
                try:
                    return copy.open("rb")
                except FileNotFoundError:  # it was just removed to make room
                    continue

    def download(self, target: Path) -> None:
        """Write the whole file to a path.

        Raises:
            BadImage: The file no longer exists, or has changed.
            UserError: The store does not answer.
            OSError: The local disk is full.
        """
        store, path = filesystem(self.path)

        def fetch() -> None:
            store.invalidate_cache()
            if _version(store.info(path)) != self.version:
                raise BadImage(f"{self.path} has changed since it was opened")
            store.get_file(path, str(target))

        self.retry(fetch)
        if target.stat().st_size != self.size:
            raise BadImage(f"{self.path} has changed since it was opened")

    def retry(self, call: Callable[[], _Answer]) -> _Answer:
        """Call the store while images are read, as :func:`retry` does.

        Raises:
            BadImage: The file no longer exists.
            UserError: The store denies access, or does not answer.
        """
        try:
            return retry(self.path, call)
        except FileNotFoundError as error:
            raise BadImage(f"{self.path} no longer exists") from error


def is_remote(spec: str) -> bool:
    """Whether a spec is an address in a store, not a path."""
    return "://" in spec


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        UserError: fsspec, or a package for this kind of store, is not installed; or the kind is unknown.
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
    """The addresses of the files that a URL, which may be a glob, matches; in byte order.

    Raises:
        NoImages: There are none.
        UserError: The store does not answer or denies access; or the limit of the local cache is not a number.
    """
    cache_limit()  # fail now rather than when a copy first needs room
    store, path = filesystem(url)

    def listed() -> list[str]:
        store.invalidate_cache()
        names = store.glob(path) if any(sign in path for sign in "*?[") else [store.info(path)["name"]]
        return sorted((store.unstrip_protocol(name) for name in names), key=str.encode)

    try:
        urls = retry(url, listed, OPEN_RETRY_SECONDS)
    except FileNotFoundError:
        urls = []
    if not urls:
        raise NoImages(f"{url}: nothing is there; check the spelling of the bucket and the pattern")
    return urls


def remote_shard(url: str) -> RemoteShard:
    """The file of a URL, with its current size and version.

    Raises:
        UserError: It does not exist; or the store does not answer or denies access.
    """
    store, path = filesystem(url)
    try:
        info = retry(url, lambda: store.info(path), OPEN_RETRY_SECONDS)
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such file in the store") from error
    return RemoteShard(url, int(info["size"]), _version(info))


def open_stream(url: str) -> Any:
    """Open a file in a store to read parts of it.

    Raises:
        Exception: Any error of the store (see `retry`).
    """
    store, path = filesystem(url)
    return store.open(path, "rb", cache_type="none")


def retry(url: str, call: Callable[[], _Answer], seconds: float | None = None) -> _Answer:
    """Call a store, and call it again at growing intervals while it fails.

    Args:
        url: Address to name in errors.
        call: Asks the store for something.
        seconds: How long to retry; None: `READ_RETRY_SECONDS`, for images that are read during a run.

    Returns:
        What ``call`` returns.

    Raises:
        FileNotFoundError: The store says that the file does not exist.
        UserError: The store denies access, or does not answer.
        OSError: The local disk is full.
    """
    advice = "check the network and the address of the store"
    if seconds is None:
        seconds, advice = READ_RETRY_SECONDS, "once it does, run the same command again to resume"
    began, wait, jitter = time.monotonic(), _FIRST_WAIT, random.SystemRandom()  # not a generator of the run
    while True:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # every store has errors of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
                raise UserError(f"{url}: the store denies access ({reason}): check its credentials") from error
            if isinstance(error, OSError) and error.errno in _LOCAL_DISK_ERRORS:
                raise
            spent = time.monotonic() - began
            if spent + wait > seconds:
                raise UserError(
                    f"{url}: the store has not answered for {spent:.0f} seconds ({reason}); {advice}"
                ) from error
        time.sleep(wait * jitter.uniform(0.5, 1.0))  # so that processes do not all return at the same moment
        wait = min(2 * wait, _LONGEST_WAIT)


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), "")
