"""Boxes around objects in images: what a file of boxes holds once it is checked, and which images of a source it is about."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from coterie.data.decoding.pixels import ValueRange
from coterie.data.sources.name_matching import match_names, names_to_match
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.formatting import first_few

BoxRow = tuple[tuple[float, float, float, float], int, bool, float | None, Any]
"""Of an object: edges, label, whether it is ignored, area (None: that of the box), mask (None: it has none)."""
_TOLERANCE = 1e-3
"""Pixels that a box may reach beyond its image before that is worth a word: what rounding leaves."""


@dataclass(frozen=True)
class BoxedImage:
    """The boxes of an image.

    Attributes:
        name: of the image, as the file says it.
        number: its id in a COCO file.
        width: in pixels.
        height: in pixels.
        boxes: left, top, right and bottom edge of each in pixels, within the image.
        labels: place of each one's category among those of the file.
        ignored: crowds and difficult objects, which are not trained on and in an evaluation neither found nor missed.
        areas: of each object in square pixels, by which COCO tells small from large ones.
        masks: of each object as a COCO file has it (:mod:`coterie.detection.masks`), None for one without; empty: none has.
    """

    name: str
    number: int
    width: int
    height: int
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    ignored: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    masks: tuple[Any, ...] = ()


@dataclass(frozen=True)
class BoxFile:
    """A checked file of boxes.

    Attributes:
        where: its path.
        categories: names.
        numbers: the id of each category, for COCO results.
        images: in the order of the file.
        complete: whether every image of the file has to be there; of a folder of VOC, the images that are given choose.
        remarks: a line for people about each kind of thing that was not used as it was.
    """

    where: str
    categories: tuple[str, ...]
    numbers: tuple[int, ...]
    images: tuple[BoxedImage, ...]
    complete: bool = True
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoxedSource:
    """Images of a source, with their boxes.

    Attributes:
        source: holds these images and perhaps others.
        positions: of each image in the source.
        file: the boxes; ``file.images`` are in the order of ``positions``.
        value_range: of images of floating-point, signed or 32-bit values, as the network was trained with.
    """

    source: ImageSource
    positions: tuple[int, ...]
    file: BoxFile
    value_range: ValueRange | None = None

    @property
    def counts(self) -> Int[np.ndarray, " c"]:
        """How many boxes of each category there are to train on."""
        used = [each.labels[~each.ignored] for each in self.file.images]
        return np.bincount(np.concatenate([*used, np.empty(0, np.int64)]), minlength=len(self.file.categories))

    def chosen(self, places: Int[np.ndarray, " n"]) -> "BoxedSource":
        """Some of the images; what there is to say of the file has been said.

        Args:
            places: of the images among these.
        """
        images = tuple(self.file.images[place] for place in places.tolist())
        positions = tuple(self.positions[place] for place in places.tolist())
        return replace(self, positions=positions, file=replace(self.file, images=images, remarks=()))


@dataclass
class BoxCollector:
    """Collects the boxes of a file, image by image, and counts those that cannot be used as they are."""

    where: str
    _cut: list[str] = field(default_factory=list)
    _empty: list[str] = field(default_factory=list)

    def image(
        self,
        name: str,
        number: int,
        size: tuple[int, int],
        rows: Sequence[BoxRow],
    ) -> BoxedImage:
        """The boxes of an image, cut at its edges; those without area there are left out.

        Args:
            name: as of :class:`BoxedImage`.
            number: as of :class:`BoxedImage`.
            size: width and height.
            rows: of each.
        """
        width, height = size
        kept = []
        for edges, label, ignored, area, mask in rows:
            left, top, right, bottom = edges
            inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            if inside[2] <= inside[0] or inside[3] <= inside[1]:
                self._empty.append(name)
                continue
            if max(abs(one - other) for one, other in zip(edges, inside, strict=True)) > _TOLERANCE:
                self._cut.append(name)
            own = (inside[2] - inside[0]) * (inside[3] - inside[1])
            kept.append((inside, label, ignored, own if area is None else area, mask))
        return BoxedImage(
            name,
            number,
            width,
            height,
            np.array([each[0] for each in kept], dtype=np.float64).reshape(-1, 4),
            np.array([each[1] for each in kept], dtype=np.int64),
            np.array([each[2] for each in kept], dtype=bool),
            np.array([each[3] for each in kept], dtype=np.float64),
            tuple(each[4] for each in kept) if any(each[4] for each in kept) else (),
        )

    def remarks(self, images: Sequence[BoxedImage]) -> tuple[str, ...]:
        """What there is to say about the boxes of these images, a line for each kind of thing."""
        bare = [each.name for each in images if not len(each.boxes)]
        ignored = [each.name for each in images if each.ignored.any()]
        lines = []
        if self._cut:
            lines.append(
                f"{_boxes(self._cut)} beyond their image and are cut at its edge: {first_few(_once(self._cut))}"
            )
        if self._empty:
            lines.append(
                f"{len(self._empty):,} boxes have no area in their image and are left out: {first_few(_once(self._empty))}"
            )
        if bare:
            lines.append(f"{len(bare):,} images have no boxes, and are kept as images of none ({first_few(bare)})")
        if ignored:
            count = sum(int(each.ignored.sum()) for each in images)
            lines.append(f"{count:,} crowds or difficult objects are not trained on, and not counted in figures")
        return tuple(f"{self.where}: {line}" for line in lines)


def find_images(file: BoxFile, source: ImageSource) -> BoxedSource:
    """Find the images of a file of boxes in a source, by their names.

    Args:
        file: the boxes.
        source: images; its remarks say how many of them are not in the file.

    Raises:
        UserError: an image of the file is missing (of a folder of VOC: all are), or a name means several images.
    """
    names, root = names_to_match(source)
    found = match_names([each.name for each in file.images], names, root)
    if found.ambiguous:
        name, one, other = found.ambiguous[0]
        raise UserError(f"{file.where}: {name} may be {one} or {other}: give the folder that its names begin in")
    places = [each[0] if each else None for each in found.images]
    missing = [each.name for each, place in zip(file.images, places, strict=True) if place is None]
    if missing and (file.complete or len(missing) == len(places)):
        raise UserError(
            f"{file.where} lists {len(missing):,} images that are not in IMAGES ({first_few(missing)}): give the folder that "
            "they are in, or leave them out of the file"
        )
    kept = [(each, place) for each, place in zip(file.images, places, strict=True) if place is not None]
    remarks = list(file.remarks)
    if missing:
        remarks.append(
            f"{file.where}: {len(missing):,} of its images are not in IMAGES and are left out ({first_few(missing)})"
        )
    listed = {place for places in found.images for place in places}
    others = [names[place] for place in range(len(names)) if place not in listed]
    if others:
        remarks.append(f"IMAGES: {len(others):,} images are not in {file.where} and are left out ({first_few(others)})")
    images, positions = tuple(each for each, _ in kept), tuple(place for _, place in kept)
    return BoxedSource(source, positions, replace(file, images=images, remarks=tuple(remarks)))


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _boxes(names: Sequence[str]) -> str:
    return "1 box reaches" if len(names) == 1 else f"{len(names):,} boxes reach"
