"""Image sources: numbered images in a fixed order, with names, and labels if there are any."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from coterie.data.decoding.decode import StoredImage
from coterie.data.sources.label_values import LabelNotes
from coterie.data.sources.labels import LabelMatrix, one_hot
from coterie.data.sources.shard_layout import ShardLayout

SAMPLED_SHARDS = 16
"""Number of shards that are sampled from a store: as many as are mixed with each other in an epoch."""
_SAMPLE_TAG = 0x73616D706C65  # "sample": keeps this random stream apart from those of the views and of the data order


@runtime_checkable
class ImageSource(Protocol):
    """Numbered images. Their order never changes, on any machine; labels are always optional.

    Reading an image may raise `coterie.errors.BadImage`. A source can be used after a fork and can be pickled. A source
    whose images have several labels may also have an attribute ``label_matrix`` (see :func:`label_matrix`); one that is
    stored in shards, an attribute ``shard_layout`` (see :func:`shard_layout`); and if these are remote, a method
    ``prefetch(start, stop)`` (see :class:`Prefetchable`).
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, 2, ...; () without labels."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, index: int) -> StoredImage:
        """An encoded image, or a decoded one: Pillow's, or an array ``[H, W, C]``, uint8 or uint16."""

    def name(self, index: int) -> str:
        """A name to show to people: a path, or a row."""

    def label(self, index: int) -> int | None:
        """The class number of an image; None without a label."""


@runtime_checkable
class Prefetchable(Protocol):
    """A source that can fetch images to this machine before they are read."""

    def prefetch(self, start: int, stop: int) -> None:
        """Fetch the images ``[start, stop)``, and possibly their neighbors."""


class Concatenated:
    """Several sources one after another; classes with the same name are the same class.

    Args:
        sources: The sources.
        remarks: Lines about what was found beside them.
    """

    def __init__(self, sources: Sequence[ImageSource], remarks: tuple[str, ...] = ()) -> None:
        self.sources = tuple(sources)
        self._remarks = remarks
        self._starts = [0, *accumulate(len(source) for source in sources)]
        self.classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._class_numbers = [[numbers[name] for name in source.classes] for source in sources]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> StoredImage:
        """An image, as its source gives it."""
        source, row = self.find(index)
        return self.sources[source][row]

    def name(self, index: int) -> str:
        """The name of an image in its source."""
        source, row = self.find(index)
        return self.sources[source].name(row)

    def label(self, index: int) -> int | None:
        """The number of an image's class in `classes`, or None."""
        source, row = self.find(index)
        label = self.sources[source].label(row)
        return None if label is None else self._class_numbers[source][label]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The class numbers of all images, -1 for none."""
        parts = zip(self.sources, self._class_numbers, strict=True)
        return np.concatenate([np.array([*numbers, -1])[labels(source)] for source, numbers in parts])

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of all images; sources of single labels contribute one per image."""
        parts = [label_matrix(source) for source in self.sources]
        classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
        rows = np.concatenate([part.with_classes(classes).rows for part in parts])
        return LabelMatrix(rows, np.concatenate([part.known for part in parts]), classes)

    @property
    def label_notes(self) -> LabelNotes:
        """What there is to say about the labels of all sources."""
        parts = [label_notes(source) for source in self.sources]
        origins = dict.fromkeys(part.origin for part in parts if part.origin)
        remarks = dict.fromkeys(remark for part in parts for remark in part.remarks)
        absent = next((part.absent for part in parts if part.absent), "")
        return LabelNotes(" and ".join(origins), parts[0].folder if len(parts) == 1 else "", tuple(remarks), absent)

    @property
    def image_remarks(self) -> tuple[str, ...]:
        """Lines about how the images were found, and about what was left out."""
        found = (remark for source in self.sources for remark in image_remarks(source))
        return tuple(dict.fromkeys((*found, *self._remarks)))

    @property
    def shard_layout(self) -> ShardLayout:
        """The shards of all sources; remote if any of them is."""
        parts = [shard_layout(source) for source in self.sources]
        starts = [start + part.starts[:-1] for start, part in zip(self._starts[:-1], parts, strict=True)]
        blocks = None
        if any(part.blocks is not None for part in parts):
            kept = [part.starts[:-1] if part.blocks is None else part.blocks for part in parts]
            blocks = np.concatenate([start + each for start, each in zip(self._starts[:-1], kept, strict=True)])
        return ShardLayout(np.concatenate([*starts, [len(self)]]), any(part.remote for part in parts), blocks)

    def prefetch(self, start: int, stop: int) -> None:
        """Fetch the images ``[start, stop)`` of remote sources to this machine."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.sources)):
            first = self._starts[number]
            if first >= stop:
                break
            source = self.sources[number]
            if isinstance(source, Prefetchable):
                source.prefetch(max(start - first, 0), min(stop - first, len(source)))

    def find(self, index: int) -> tuple[int, int]:
        """The number of an image's source in `sources`, and the image's position in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        source = bisect_right(self._starts, index) - 1
        return source, index - self._starts[source]


class Subset:
    """Some images of a source in a given order, optionally with other labels.

    Args:
        source: The source.
        positions: Positions of the images in the source.
        labels: Class numbers that replace those of the source, -1 for none.
        classes: Class names of these labels.
    """

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

    def __getitem__(self, index: int) -> StoredImage:
        """An image, as its source gives it."""
        return self.source[int(self.positions[index])]

    def name(self, index: int) -> str:
        """The name of an image in its source."""
        return self.source.name(int(self.positions[index]))

    def label(self, index: int) -> int | None:
        """The given label of an image, or None."""
        return None if self.labels is None else int(self.labels[index])

    @property
    def label_matrix(self) -> LabelMatrix:
        """The classes of the images, from the given labels, or else from the source."""
        if self.labels is not None:
            return one_hot(self.labels, self.classes)
        return label_matrix(self.source)[self.positions]


def labels(source: ImageSource) -> Int[np.ndarray, " n"]:
    """The class numbers of all images of a source, -1 for none."""
    if not source.classes:
        return np.full(len(source), -1, dtype=np.int64)
    stored = getattr(source, "labels", None)
    if stored is None:
        each = (source.label(index) for index in range(len(source)))
        stored = np.fromiter((-1 if label is None else label for label in each), dtype=np.int64, count=len(source))
    return np.asarray(stored, dtype=np.int64)


def label_matrix(source: ImageSource) -> LabelMatrix:
    """The classes of all images of a source, which may have several; one byte per image and class.

    This is the source's own ``label_matrix``, if it has one that is not None; otherwise its single labels.
    """
    stored: LabelMatrix | None = getattr(source, "label_matrix", None)
    return one_hot(labels(source), source.classes) if stored is None else stored


def label_notes(source: ImageSource) -> LabelNotes:
    """What there is to say about the labels of a source: its own ``label_notes``, if it has any."""
    notes: LabelNotes = getattr(source, "label_notes", LabelNotes())
    return notes


def image_remarks(source: ImageSource) -> tuple[str, ...]:
    """Lines about how the images of a source were found, and what it leaves out: its own ``image_remarks``, if any."""
    remarks: tuple[str, ...] = getattr(source, "image_remarks", ())
    return remarks


def shard_layout(source: ImageSource) -> ShardLayout:
    """How the images of a source are stored: its own ``shard_layout``, or else a single local shard."""
    stored: ShardLayout | None = getattr(source, "shard_layout", None)
    return ShardLayout(np.array([0, len(source)]), False) if stored is None else stored


def random_positions(count: int, total: int, stream: int = 0) -> Int[np.ndarray, " n"]:
    """Draw ``count`` of ``total`` positions at random, without repetition and in ascending order.

    A pure function of its arguments on every machine, made of the raw numbers of NumPy's Philox, which no version changes.

    Args:
        count: Number of positions; at most ``total`` are returned.
        total: Positions are from 0 to ``total - 1``.
        stream: Another number draws other positions.
    """
    if 2 * count > total:  # draw those that are left out
        kept = np.ones(total, dtype=bool)
        kept[random_positions(max(0, total - count), total, stream)] = False
        return np.flatnonzero(kept)
    bits = _random_bits(stream)
    drawn: Int[np.ndarray, " m"] = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        more = bits.random_raw(2 * count) % np.uint64(total)
        several, first = np.unique(np.concatenate([drawn, more.astype(np.int64)]), return_index=True)
        drawn = several[np.argsort(first)]  # in the order in which they were drawn
    return np.sort(drawn[:count])


def sample_indices(count: int, source: ImageSource) -> Int[np.ndarray, " n"]:
    """A random sample of the images of a source, in ascending order and always the same.

    Each image is equally likely. From a remote source of more than `SAMPLED_SHARDS` shards, so many shards are drawn, longer
    ones more likely, and equally many random images of each, because any other image may require fetching another whole
    shard. Where one block of a shard is enough, its images are from a random block.

    Args:
        count: Number of images; fewer are returned if the source or the drawn shards have fewer.
        source: The source.
    """
    layout, total = shard_layout(source), len(source)
    filled = np.flatnonzero(np.diff(layout.starts))
    if not layout.remote or count >= total or len(filled) <= SAMPLED_SHARDS:
        return random_positions(count, total)
    shards = filled[_weighted_positions(min(SAMPLED_SHARDS, count), np.diff(layout.starts)[filled])]
    each = -(-count // max(1, len(shards)))
    images = [np.empty(0, np.int64)]
    for start, stop in zip(layout.starts[shards].tolist(), layout.starts[shards + 1].tolist(), strict=True):
        first, last = (start, stop) if layout.blocks is None else _random_block(layout.blocks, start, stop)
        if last - first < min(each, stop - start):
            first, last = start, stop
        images.append(first + random_positions(each, last - first, stream=start))
    return np.concatenate(images)[:count]


def _random_bits(stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([_SAMPLE_TAG, stream], dtype=np.uint64))


def _weighted_positions(count: int, weights: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Draw positions by their weights, without repetition and in ascending order (Efraimidis and Spirakis 2006)."""
    uniform = (_random_bits(0).random_raw(len(weights)) + 0.5) / 2.0**64
    return np.sort(np.argsort(np.log(uniform) / weights, kind="stable")[len(weights) - count :])


def _random_block(blocks: Int[np.ndarray, " _"], start: int, stop: int) -> tuple[int, int]:
    """A random block of the shard ``[start, stop)``, as a range of images; the longer it is, the likelier."""
    inside = blocks[(blocks > start) & (blocks < stop)]
    edges = np.concatenate([[start], inside, [stop]])
    image = start + int(random_positions(1, stop - start, stream=start)[0])
    block = int(np.searchsorted(edges, image, side="right")) - 1
    return int(edges[block]), int(edges[block + 1])
