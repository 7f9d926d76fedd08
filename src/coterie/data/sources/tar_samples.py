"""Which images of an archive belong together, and to which label: the samples of WebDataset, and names with dots in them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from coterie.data.sources.file_names import printable
from coterie.data.sources.left_out import LeftOut

_BESIDE = frozenset(
    b"seg segmentation semantic instance panoptic mask masks depth disparity normal normals label labels annotation "
    b"annotations gt groundtruth edge edges saliency heatmap flow thumb thumbnail".split()
)
"""Parts of an ending, as in ``1.seg.png``, by which an image is not the image of its sample but something beside it."""


def key_of(name: bytes) -> bytes:
    """The key of a sample: the path up to the first dot of its last component."""
    folder, slash, last = name.rpartition(b"/")
    return folder + slash + last.partition(b".")[0]


def stem_of(name: bytes) -> bytes:
    """The path without its ending."""
    return name.rpartition(b".")[0]


def images_of_samples(names: Iterable[bytes], left: LeftOut) -> list[bytes]:
    """The names of images, without masks and the like that are beside another image of their sample.

    ``IMG_1.jpg``, ``IMG_1.edited.jpg`` and ``IMG_1.png`` are three images; ``1.seg.png`` beside ``1.jpg`` is none.
    """
    names = list(names)
    beside = {name for name in names if _is_beside(name)}
    if not beside:
        return names
    samples = {key_of(name) for name in names if name not in beside}
    dropped = {name for name in beside if key_of(name) in samples}
    left.counts.update("." + printable(name.rpartition(b"/")[2].partition(b".")[2]) for name in dropped)
    return [name for name in names if name not in dropped]


class SampleLabels:
    """The labels that an archive holds in files beside its images.

    The label of ``2020.05.01.jpg`` is in ``2020.05.01.cls``, or else in that of its key, ``2020.cls``; a file such as
    ``1.meta.json`` is of the one image with its key. A ``.cls`` file goes before a ``.json`` file.
    """

    def __init__(self) -> None:
        self._tables = dict[bytes, str](), dict[bytes, str]()  # of .cls and of .json files: stem -> label
        self._loose: dict[bytes, dict[bytes, str]] = {}  # key -> name -> label, where the stem is more than the key

    def add(self, name: bytes, label: str) -> None:
        """Note what a label file says; an empty text is no label."""
        if not label:
            return
        stem = stem_of(name)
        self._tables[name.lower().endswith(b".json")][stem] = label
        if (key := key_of(stem)) != stem:
            self._loose.setdefault(key, {})[name] = label

    def of(self, images: Sequence[bytes]) -> Iterator[str | None]:
        """The label of each of these images, which are all that there are of their keys."""
        counts = Counter(map(key_of, images)) if self._loose else Counter[bytes]()
        for name in images:
            stem, key = stem_of(name), key_of(name)
            found = next((table[each] for each in (stem, key) for table in self._tables if each in table), None)
            loose = self._loose.get(key, {})
            alone = found is None and counts[key] == 1 and len(loose) == 1
            yield next(iter(loose.values())) if alone else found


def _is_beside(name: bytes) -> bool:
    fields = name.rpartition(b"/")[2].lower().split(b".")[1:-1]
    return bool(fields) and not _BESIDE.isdisjoint(fields)
