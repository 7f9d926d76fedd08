"""Labels of images in tar shards: from the files beside them, or else from the folders in the shards."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coterie.data.sources.file_names import printable
from coterie.data.sources.label_values import ImageLabels, Label, LabelNotes
from coterie.data.sources.labels import encode_labels, encode_multilabels
from coterie.data.sources.tar_index import BETWEEN_LABELS


def file_labels(texts: Sequence[pa.Array | None], counts: Sequence[int]) -> ImageLabels:
    """Labels that files of the shards hold: numbers if all of them are.

    Args:
        texts: for each shard, the text of each image's labels; None for a shard without any.
        counts: how many images each shard has.
    """
    distinct = {text for column in texts if column is not None for text in pc.unique(column).to_pylist()}
    values = _values({label for text in distinct if text is not None for label in text.split(BETWEEN_LABELS)})
    notes = LabelNotes("files in the shards")
    if any(text is not None and BETWEEN_LABELS in text for text in distinct):
        lists = (
            [values[each] for each in text.split(BETWEEN_LABELS)] if text else None for text in _all(texts, counts)
        )
        return ImageLabels(matrix=encode_multilabels(lists), notes=notes)
    single = (None if text is None else values[text] for text in _all(texts, counts))
    return ImageLabels(*encode_labels(single), notes=notes)


def _all(texts: Sequence[pa.Array | None], counts: Sequence[int]) -> Iterator[str | None]:
    for column, count in zip(texts, counts, strict=True):
        yield from [None] * count if column is None else column.to_pylist()


def _values(labels: Iterable[str]) -> dict[str, Label]:
    """The value of each label: an integer if all of them are integers."""
    labels = list(labels)
    try:
        return {label: int(label) for label in labels}
    except ValueError:
        return {label: label for label in labels}


def folder_labels(names: Iterable[pa.Array], images: int) -> ImageLabels:
    """The first folder of each image below the folder that all have in common; no labels if an image has none.

    Args:
        names: paths in the shards, shard by shard.
        images: how many there are in all.
    """
    absent = ImageLabels(
        notes=LabelNotes(absent="its shards hold neither .cls or .json files with labels, nor class folders")
    )
    known: dict[bytes, int] = {}
    codes = array("i")
    for column in names:
        for name in column.to_pylist():
            folder, slash, _ = name.rpartition(b"/")
            if not slash:
                return absent
            codes.append(known.setdefault(folder, len(known)))
    shared = _shared([folder.split(b"/") for folder in known])
    if any(len(folder.split(b"/")) <= shared for folder in known):
        return absent
    classes = [folder.split(b"/")[shared] for folder in known]
    ordered = sorted(set(classes))
    number = {name: place for place, name in enumerate(ordered)}
    lookup = np.array([number[name] for name in classes], dtype=np.int32)
    return ImageLabels(
        lookup[np.array(codes)], tuple(map(printable, ordered)), None, LabelNotes("folders in the shards")
    )


def _shared(folders: Sequence[list[bytes]]) -> int:
    """How many of their first parts all folders have in common."""
    pairs = zip(min(folders), max(folders), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
