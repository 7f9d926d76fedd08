"""Where images come from: any number of encoded images with a stable order, names, and labels if there are any."""

import glob
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from coterie.data.files import open_files, open_folder, open_list
from coterie.data.labels import LabelMatrix, one_hot
from coterie.data.names import is_image_name
from coterie.data.order import Blocks
from coterie.data.parquet import open_tables
from coterie.data.remote import found, is_remote
from coterie.data.remote_table import open_remote_tables
from coterie.data.tar import TarShards
from coterie.errors import NoImages, UserError

SAMPLED_BLOCKS = 16
"""So many shards or tables are looked into, where images come from a store: as many as are mixed at a time."""


@runtime_checkable
class ImageSource(Protocol):
    """Images by number. The order never changes, on any machine; labels are optional, always.

    Reading an image may raise `coterie.errors.BadImage`. A source can be used after a fork and can be pickled. One whose
    images have several labels may have an attribute ``label_matrix`` too (see :func:`label_matrix`); one that lies in
    shards, an attribute ``blocks`` (see :func:`blocks`), and if they are fetched, a method ``bring(start, stop)``.
    """

    classes: tuple[str, ...]  # names of the labels 0, 1, 2 ...; () where there are none

    def __len__(self) -> int:
        """How many images there are."""

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        """The encoded image, or a decoded one ``[H, W, C]`` of uint8 or uint16."""

    def name(self, index: int) -> str:
        """A name for people: a path, or a row."""

    def label(self, index: int) -> int | None:
        """The number of the image's class; None if it has no label."""


@runtime_checkable
class Fetched(Protocol):
    """What can have a run of its images on this machine before they are asked for."""

    def bring(self, start: int, stop: int) -> None:
        """Have the images ``[start, stop)`` here, and perhaps their neighbours."""


class Concatenated:
    """Several sources, one after another; classes of the same name are the same class."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = tuple(sources)
        self._starts = [0, *accumulate(len(source) for source in sources)]
        self.classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
        place = {name: number for number, name in enumerate(self.classes)}
        self._places = [[place[name] for name in source.classes] for source in sources]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        """The image, as its source gives it."""
        source, row = self._find(index)
        return self.sources[source][row]

    def name(self, index: int) -> str:
        """The image's name in its source."""
        source, row = self._find(index)
        return self.sources[source].name(row)

    def label(self, index: int) -> int | None:
        """The number of the image's class among `classes`, or None."""
        source, row = self._find(index)
        label = self.sources[source].label(row)
        return None if label is None else self._places[source][label]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """All labels, -1 for none."""
        parts = zip(self.sources, self._places, strict=True)
        return np.concatenate([np.array([*places, -1])[labels(source)] for source, places in parts])

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of all images; a source of single labels gives one an image."""
        parts = [label_matrix(source) for source in self.sources]
        classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
        rows = np.concatenate([part.arranged(classes).rows for part in parts])
        return LabelMatrix(rows, np.concatenate([part.known for part in parts]), classes)

    @property
    def blocks(self) -> Blocks:
        """Those of all sources; they are fetched if some are."""
        parts = [blocks(source) for source in self.sources]
        starts = [start + part.starts[:-1] for start, part in zip(self._starts[:-1], parts, strict=True)]
        return Blocks(np.concatenate([*starts, [len(self)]]), any(part.fetched for part in parts))

    def bring(self, start: int, stop: int) -> None:
        """Have the images ``[start, stop)`` on this machine, those of sources that are fetched."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.sources)):
            first = self._starts[number]
            if first >= stop:
                break
            source = self.sources[number]
            if isinstance(source, Fetched):
                source.bring(max(start - first, 0), min(stop - first, len(source)))

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        source = bisect_right(self._starts, index) - 1
        return source, index - self._starts[source]


class Subset:
    """Some images of a source, in a given order, if need be with other labels."""

    def __init__(
        self,
        source: ImageSource,
        positions: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        self.source, self.positions = source, positions
        self.labels, self.classes = labels, classes

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        """The image, as its source gives it."""
        return self.source[int(self.positions[index])]

    def name(self, index: int) -> str:
        """The image's name in its source."""
        return self.source.name(int(self.positions[index]))

    def label(self, index: int) -> int | None:
        """The given label, or None."""
        return None if self.labels is None else int(self.labels[index])

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of the images: by the given labels, or as the source says."""
        if self.labels is not None:
            return one_hot(self.labels, self.classes)
        return label_matrix(self.source)[self.positions]


def labels(source: ImageSource) -> Int[np.ndarray, " n"]:
    """The labels of all images of a source as integers, -1 for none."""
    if not source.classes:
        return np.full(len(source), -1, dtype=np.int64)
    stored = getattr(source, "labels", None)
    if stored is None:
        found = (source.label(index) for index in range(len(source)))
        stored = np.fromiter((-1 if label is None else label for label in found), dtype=np.int64, count=len(source))
    return np.asarray(stored, dtype=np.int64)


def label_matrix(source: ImageSource) -> LabelMatrix:
    """The classes of all images of a source, of which an image may have several; one byte an image and class.

    What the source itself says in ``label_matrix``, if it has that and it is not None; otherwise its single labels.
    """
    stored: LabelMatrix | None = getattr(source, "label_matrix", None)
    return one_hot(labels(source), source.classes) if stored is None else stored


def blocks(source: ImageSource) -> Blocks:
    """How a source lies on its storage: what it says itself in ``blocks``, or else one block."""
    stored: Blocks | None = getattr(source, "blocks", None)
    return Blocks(np.array([0, len(source)]), False) if stored is None else stored


def evenly(count: int, total: int) -> Int[np.ndarray, " n"]:
    """``count`` of ``total`` positions, evenly spaced, from the first on."""
    return np.arange(count, dtype=np.int64) * total // max(1, count)


def sampled(count: int, source: ImageSource) -> Int[np.ndarray, " n"]:
    """``count`` of the images of a source, in its order, the same ones every time: evenly spaced over all of it.

    Of one that is fetched block by block, the first images of `SAMPLED_BLOCKS` evenly spaced blocks, as many of each: any other
    image may take a whole block. Fewer than ``count``, if these blocks have fewer.
    """
    lying, total = blocks(source), len(source)
    if not lying.fetched or count >= total:
        return evenly(min(count, total), total)
    starts, lengths = lying.starts[:-1], np.diff(lying.starts)
    filled = np.flatnonzero(lengths)
    chosen = filled[evenly(min(len(filled), SAMPLED_BLOCKS, count), len(filled))]
    each = -(-count // max(1, len(chosen)))
    rows = [starts[block] + np.arange(min(each, lengths[block]), dtype=np.int64) for block in chosen]
    return np.concatenate([np.empty(0, np.int64), *rows])[:count]


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
    named = [(kind, url) for url in found(spec) if (kind := kinds.get(Path(url).suffix.lower())) is not None]
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
