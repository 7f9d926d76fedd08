"""Open images by where they are: folders, lists, globs, parquet tables or tar shards, on this machine or in a store."""

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TypeGuard

from coterie.data.sources.arrow_table import ArrowTable, is_saved, open_saved
from coterie.data.sources.columns import ANY_COLUMNS, Columns
from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.files import open_files, open_folder, open_list
from coterie.data.sources.hub import is_hub, open_hub
from coterie.data.sources.label_table import for_images, with_labels
from coterie.data.sources.left_out import LeftOut, advice_on, archive_kind, how_to_unpack, kind_of
from coterie.data.sources.numpy_files import NumpyFile
from coterie.data.sources.object_store import is_remote, list_store
from coterie.data.sources.pages import with_pages
from coterie.data.sources.parquet import holds_images, open_tables
from coterie.data.sources.parquet_labels import is_partitioned
from coterie.data.sources.path_table import open_path_table
from coterie.data.sources.remote_parquet import open_remote_tables
from coterie.data.sources.source import Concatenated, ImageSource
from coterie.data.sources.tables import TEXT_SUFFIXES, read_table
from coterie.data.sources.tar import TarShards
from coterie.data.sources.walk import walk
from coterie.errors import NoImages, UserError
from coterie.logger import Logger
from coterie.paths import expand

FROM_PYTHON = "python: "
"""Begins what stands in settings in place of a path: images that a caller gave in Python."""


def open_source(
    *specs: str | os.PathLike[str], columns: Columns = ANY_COLUMNS, logger: Logger | None = None
) -> ImageSource:
    """Open images by where they are.

    Args:
        specs: One or more of: a folder (all images below it; its first level of folders are the classes, if every image is
            in one), a ``.txt`` list of files, image files, ``.parquet`` tables, a folder of such tables in folders
            ``key=value``, a dataset that Hugging Face's ``save_to_disk`` wrote or its ``.arrow`` files, ``hf:NAME`` (the extra
            ``hf``), ``.tar`` shards, tables of paths (``.csv``, ``.tsv``, ``.jsonl``), ``.npy`` and ``.npz`` files of
            NumPy, or a glob that matches any of these. Several are concatenated in the given order; image files given one by
            one are sorted, so that it does not matter how a shell expands a glob. Tables and shards may be in a store that
            fsspec reads: ``s3://bucket/shards/*.tar``.
        columns: Which columns of tables hold images and labels, a table of labels beside them, and which pages are images.
        logger: Receives progress.

    Raises:
        NoImages: A folder, list, table or shard contains no images.
        UserError: Something is missing, unreadable or of an unknown kind.
    """
    given = next((spec for spec in specs if is_from_python(spec)), None)
    if given is not None:
        what = given.removeprefix(FROM_PYTHON)
        raise UserError(
            f"the images came from Python ({what}): give them there again, as in coterie.pretrain(data=...)"
        )
    if not all(specs) or not specs:
        raise UserError("no images: give a folder, a .txt list of files, *.parquet, *.tar, *.npz or a glob")
    table = None if columns.labels is None else read_table(columns.labels)
    inner = columns if table is None else for_images(columns, table)
    left: list[str] = []
    expanded = [(kind, path) for spec in specs for kind, path in _expand(os.fspath(spec), left)]
    sources: list[ImageSource] = []
    for kind, group in groupby(expanded, key=lambda pair: pair[0]):
        sources.extend(_open(kind, [path for _, path in group], inner))
    source = sources[0] if len(sources) == 1 and not left else Concatenated(sources, tuple(left))
    return with_pages(source if table is None else with_labels(source, table, columns), columns, logger)


def is_from_python(spec: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether this stands for images that a caller gave in Python, which only the caller can give again."""
    return isinstance(spec, str) and spec.startswith(FROM_PYTHON)


def absolute(spec: str) -> str:
    """A source by its absolute path, with ``~`` expanded, so that it can be opened from any folder; a URL as it is."""
    if is_remote(spec) or not spec or is_from_python(spec) or is_hub(spec):
        return spec
    return os.path.abspath(expand(spec))  # noqa: PTH100 -- resolve() would follow links


def _open(kind: str, paths: list[str], columns: Columns) -> Iterable[ImageSource]:
    if kind == "folder":
        return [source for path in paths for source in _open_folder(path, columns)]
    if kind == "list":
        return [open_list(path, columns) for path in paths]
    if kind == "table":
        return [open_path_table(path, columns) for path in paths]
    if kind == "parquet":
        return _open_parquet(paths, columns)
    if kind == "remote parquet":
        return open_remote_tables(paths, columns)
    if kind == "numpy":
        return [NumpyFile(path, columns) for path in paths]
    if kind == "arrow":
        return [ArrowTable(path, [path], columns) for path in paths]
    if kind == "hub":
        return [open_hub(path, columns) for path in paths]
    return [open_files(paths, columns) if kind == "file" else TarShards(paths, columns.label_key)]


def _open_folder(folder: str, columns: Columns) -> Iterable[ImageSource]:
    """The images below a folder, a saved dataset of Hugging Face, or else the tables in its folders ``key=value``."""
    if is_saved(folder):
        return [open_saved(folder, columns)]
    try:
        return [open_folder(folder, columns)]
    except NoImages:
        if not is_partitioned(folder) or not (
            tables := sorted(map(str, Path(folder).rglob("*.parquet")), key=os.fsencode)
        ):
            raise
        left = LeftOut()
        for _ in walk(os.fsencode(folder), left):  # there is no image in it: only what is counted is of interest
            pass
        del left.counts[".parquet"]
        remarks, opened = left.remarks(folder), list(_open_parquet(tables, columns))
        return [Concatenated(opened, remarks)] if remarks else opened


def _open_parquet(paths: list[str], columns: Columns) -> Iterable[ImageSource]:
    """Tables of images, or of their paths: all of the kind that the first one is."""
    if holds_images(paths[0], columns):
        return open_tables(paths, columns)
    return [open_path_table(path, columns) for path in paths]


def _expand(spec: str, left: list[str]) -> Iterator[tuple[str, str]]:
    """The kind and path of everything that a spec names; of the matches of a glob, only those that can hold images.

    Args:
        spec: The spec.
        left: Receives a line about what the glob matches besides.
    """
    if is_hub(spec):
        yield "hub", spec
        return
    if is_remote(spec):
        yield from _expand_remote(spec, left)
        return
    spec = str(expand(spec))
    if os.path.exists(spec):  # noqa: PTH110 -- pathlib's raises where a folder may not be entered
        yield _kind(spec) or _refuse(spec), spec
        return
    if not glob.has_magic(spec):
        raise UserError(f"{spec}: no such file or folder")
    paths = sorted(glob.glob(spec, recursive=True), key=os.fsencode)  # noqa: PTH207 -- pathlib's has no absolute patterns
    known = [(kind, path) for path in paths if (kind := _kind(path)) is not None]
    if not spec.endswith((".txt", *TEXT_SUFFIXES)):  # text next to images is notes and labels, not lists of images
        known = [(kind, path) for kind, path in known if kind not in ("list", "table")]
    others = LeftOut()
    taken = {path for _, path in known}
    others.add_names(b"", (os.fsencode(path) for path in paths if path not in taken))
    if not known:
        what = f", but {others}" if others.counts else ""
        raise NoImages(f"{spec}: this pattern matches no image, folder, table or shard{what}")
    left += others.remarks(spec)
    yield from known


def _expand_remote(spec: str, left: list[str]) -> Iterator[tuple[str, str]]:
    kinds, urls, others = {".tar": "remote tar", ".parquet": "remote parquet"}, list_store(spec), LeftOut()
    known = [(kind, url) for url in urls if (kind := kinds.get(Path(url).suffix.lower())) is not None]
    others.add_names(b"", (os.fsencode(url) for url in urls if Path(url).suffix.lower() not in kinds))
    if not known:
        raise NoImages(
            f"{spec}: no tar shards or parquet tables{f', but {others}' if others.counts else ''}; a store must hold whole "
            f"shards, such as '{spec.rstrip('/')}/*.tar'"
        )
    left += others.remarks(spec)
    yield from known


def _kind(path: str) -> str | None:
    if Path(path).is_dir():
        return "folder"
    kinds = {".txt": "list", ".parquet": "parquet", ".tar": "tar", ".npy": "numpy", ".npz": "numpy"}
    kinds[".arrow"] = "arrow"
    kinds |= dict.fromkeys(TEXT_SUFFIXES, "table")
    return kinds.get(Path(path).suffix.lower(), "file" if is_image_name(os.fsencode(path)) else None)


def _refuse(spec: str) -> str:
    """Say why a file is no source, and what to do."""
    head = b""
    if Path(spec).is_file():
        with suppress(OSError), Path(spec).open("rb") as file:
            head = file.read(8)
    archive = archive_kind(spec, head)
    if archive is not None:
        raise UserError(f"{spec}: images cannot be read from a {archive} archive: {how_to_unpack(spec, archive)}")
    advice = advice_on(kind_of(os.fsencode(spec)))
    if advice:
        raise UserError(f"{spec}: cannot be read without one more package: {advice}")
    raise UserError(
        f"{spec}: not a source of images; give a folder, a .txt list of files, *.parquet, *.tar, *.npz or a glob"
    )
