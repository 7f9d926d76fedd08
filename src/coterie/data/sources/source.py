"""Where images come from: any number of encoded images with a stable order, names, and labels if there are any."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from coterie.data.sources.blocks import ShardLayout
from coterie.data.sources.labels import LabelMatrix, one_hot

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
class Prefetchable(Protocol):
    """What can have a run of its images on this machine before they are asked for."""

    def prefetch(self, start: int, stop: int) -> None:
        """Have the images ``[start, stop)`` here, and perhaps their neighbors."""


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
    def blocks(self) -> ShardLayout:
        """Those of all sources; they are fetched if some are."""
        parts = [blocks(source) for source in self.sources]
        starts = [start + part.starts[:-1] for start, part in zip(self._starts[:-1], parts, strict=True)]
        return ShardLayout(np.concatenate([*starts, [len(self)]]), any(part.fetched for part in parts))

    def prefetch(self, start: int, stop: int) -> None:
        """Have the images ``[start, stop)`` on this machine, those of sources that are fetched."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.sources)):
            first = self._starts[number]
            if first >= stop:
                break
            source = self.sources[number]
            if isinstance(source, Prefetchable):
                source.prefetch(max(start - first, 0), min(stop - first, len(source)))

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


def blocks(source: ImageSource) -> ShardLayout:
    """How a source lies on its storage: what it says itself in ``blocks``, or else one block."""
    stored: ShardLayout | None = getattr(source, "blocks", None)
    return ShardLayout(np.array([0, len(source)]), False) if stored is None else stored


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
