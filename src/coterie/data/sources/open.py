"""From what a person names to a source: a folder, a list, a glob, parquet tables or tar shards, here or in a store."""

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from coterie.data.sources.files import open_files, open_folder, open_list
from coterie.data.sources.names import is_image_name
from coterie.data.sources.object_store import is_remote, list_store
from coterie.data.sources.parquet import open_tables
from coterie.data.sources.remote_parquet import open_remote_tables
from coterie.data.sources.source import Concatenated, ImageSource
from coterie.data.sources.tar import TarShards
from coterie.errors import NoImages, UserError


def open_source(*specs: str | os.PathLike[str]) -> ImageSource:
    """Open images by where they are.

    Args:
        specs: one or more of: a folder (all images below it; its first level of folders are the classes, if every
            image is in one), a ``.txt`` list of files, image files, ``.parquet`` tables, ``.tar`` shards, or a glob
            over any of these. Several are put one after another in the order given; image files given one by one are
            sorted, so that it does not matter how a shell expands a glob. Tables and shards may be in a store that
            fsspec reads: ``s3://bucket/shards/*.tar``.

    Raises:
        NoImages: a folder, list, table or shard without an image.
        UserError: something is missing, unreadable or of an unknown kind.
    """
    if not all(specs) or not specs:
        raise UserError("no images: give a folder, a .txt list of files, *.parquet, *.tar or a glob")
    named = [(kind, path) for spec in specs for kind, path in _expand(os.fspath(spec))]
    sources: list[ImageSource] = []
    for kind, group in groupby(named, key=lambda pair: pair[0]):
        sources.extend(_open(kind, [path for _, path in group]))
    return sources[0] if len(sources) == 1 else Concatenated(sources)


def _open(kind: str, paths: list[str]) -> Iterable[ImageSource]:
    if kind == "folder":
        return [open_folder(path) for path in paths]
    if kind == "list":
        return [open_list(path) for path in paths]
    if kind == "parquet":
        return open_tables(paths)
    if kind == "remote parquet":
        return open_remote_tables(paths)
    return [open_files(paths) if kind == "file" else TarShards(paths)]


def _expand(spec: str) -> Iterator[tuple[str, str]]:
    """The kind and the path of what a spec names; of what a glob finds, only that which can hold images."""
    if is_remote(spec):
        yield from _in_a_store(spec)
        return
    spec = str(Path(spec).expanduser())
    if os.path.exists(spec):  # noqa: PTH110 -- pathlib's raises where a folder may not be entered
        yield _kind(spec) or _refuse(spec), spec
        return
    if not glob.has_magic(spec):
        raise UserError(f"{spec}: no such file or folder")
    paths = sorted(glob.glob(spec, recursive=True), key=os.fsencode)  # noqa: PTH207 -- pathlib's has no absolute patterns
    known = [(kind, path) for path in paths if (kind := _kind(path)) is not None]
    if not spec.endswith(".txt"):  # notes beside images are no lists of images
        known = [(kind, path) for kind, path in known if kind != "list"]
    if not known:
        raise NoImages(f"{spec}: nothing that this pattern finds is an image, a folder, a table or a shard")
    yield from known


def _in_a_store(spec: str) -> Iterator[tuple[str, str]]:
    kinds = {".tar": "remote tar", ".parquet": "remote parquet"}
    named = [(kind, url) for url in list_store(spec) if (kind := kinds.get(Path(url).suffix.lower())) is not None]
    if not named:
        raise NoImages(
            f"{spec}: no tar shards or parquet tables; a store is asked for whole shards, such as '{spec.rstrip('/')}/*.tar'"
        )
    yield from named


def _kind(path: str) -> str | None:
    if Path(path).is_dir():
        return "folder"
    known = {".txt": "list", ".parquet": "parquet", ".tar": "tar"}
    return known.get(Path(path).suffix.lower(), "file" if is_image_name(os.fsencode(path)) else None)


def _refuse(spec: str) -> str:
    raise UserError(f"{spec}: not a source of images; give a folder, a .txt list of files, *.parquet, *.tar or a glob")
