"""Images with masks: each mask is read once, checked and counted, before anything is trained on it."""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from coterie.data.decoding.decode import decode_indices
from coterie.data.decoding.pixels import ValueRange
from coterie.data.loading.whole_images import made_ahead
from coterie.data.sources.name_matching import match_names, names_to_match
from coterie.data.sources.source import ImageSource, Subset
from coterie.embedding.cache import source_key
from coterie.errors import BadImage, UserError
from coterie.formatting import first_few
from coterie.logger import Logger
from coterie.segmentation.classes import VALUES, Classes, found_classes, in_order
from coterie.segmentation.mask_files import MaskFiles, find_masks, other_image_name


@dataclass(frozen=True)
class Mask:
    """What is known of a mask once it was read.

    Attributes:
        path: of the file.
        counts: pixels of each value.
        digest: identifies its pixels.
        short_side: in pixels.
    """

    path: Path
    counts: Int[np.ndarray, "256"]
    digest: bytes
    short_side: int


@dataclass(frozen=True)
class MaskedSource:
    """Images of a source, with their masks.

    Attributes:
        source: holds these images and perhaps others.
        positions: of each image in the source.
        masks: of each.
        classes: of the masks.
        where: the masks as the user named them.
        remarks: a line for people about each kind of thing that was not used as it was.
        value_range: of images of floating-point, signed or 32-bit values, as the network was trained with.
    """

    source: ImageSource
    positions: tuple[int, ...]
    masks: tuple[Mask, ...]
    classes: Classes
    where: str
    remarks: tuple[str, ...]
    value_range: ValueRange | None = None

    @property
    def counts(self) -> Int[np.ndarray, " k"]:
        """Pixels of each class in all masks."""
        total: np.ndarray = _total(self.masks)[list(self.classes.values)]
        return total

    @property
    def short_side(self) -> int:
        """Of the masks in pixels, the median."""
        return round(statistics.median(each.short_side for each in self.masks))

    @property
    def key(self) -> str:
        """Identifies images, as they are now, and masks, and what these mean."""
        classes = self.classes
        digest = hashlib.sha256(repr((classes.names, classes.values, classes.ignored)).encode())
        for each in self.masks:
            digest.update(each.digest)
        files = source_key(Subset(self.source, np.array(self.positions)))
        return hashlib.sha256(f"{files} {digest.hexdigest()[:16]}".encode()).hexdigest()[:16]

    def chosen(self, places: Int[np.ndarray, " n"]) -> "MaskedSource":
        """Some of the images; what there is to say of the masks has been said.

        Args:
            places: of the images among these.
        """
        kept = places.tolist()
        return replace(
            self,
            positions=tuple(self.positions[place] for place in kept),
            masks=tuple(self.masks[place] for place in kept),
            remarks=(),
        )

    def labels(self, place: int) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel of an image, :data:`coterie.segmentation.classes.IGNORED` for none.

        Raises:
            BadImage: the mask cannot be read any more.
        """
        labels: np.ndarray = self.classes.table[_read(self.masks[place].path)]
        return labels


def open_masks(
    masks: str | Path,
    classes: str | Path | None,
    source: ImageSource,
    logger: Logger,
    workers: int = 0,
    default: Classes | None = None,
) -> MaskedSource:
    """Find the images of masks in a source by their names, and read all masks once.

    Args:
        masks: a folder, or a list of VOC.
        classes: a file of class names or a known data set; None: as the layout says, else ``default``.
        source: images; the remarks say how many of them have no mask.
        logger: shows progress.
        workers: threads that read masks.
        default: of a segmenter; None: the classes are the values that the masks have.

    Raises:
        UserError: no mask has an image, a mask is not of one channel, or has a value that is no class, in one line.
    """
    files = find_masks(masks, classes)
    places, paths, remarks = _matched(files, source)
    seen, bad = _read_all(paths, logger, workers)
    if bad:
        path, reason = bad[0]
        remarks.append(
            f"{files.where}: {len(bad):,} of the masks cannot be read and are left out ({path.name}: {reason})"
        )
    kept = [place for place, each in enumerate(seen) if each is not None]
    if not kept:
        raise UserError(f"{files.where}: no mask can be read ({bad[0][0].name}: {bad[0][1]})")
    read = tuple(each for each in seen if each is not None)
    total = _total(read)
    chosen = files.classes or default
    if chosen is None:
        chosen, line = found_classes(total, files.where)
        remarks.append(line)
    elif files.classes is not None:
        chosen = in_order(chosen, total, default)
    _check_values(chosen, total, read)
    return MaskedSource(source, tuple(places[each] for each in kept), read, chosen, files.where, tuple(remarks))


def _matched(files: MaskFiles, source: ImageSource) -> tuple[list[int], list[Path], list[str]]:
    """Position and mask of each image that has one, and what there is to say about the others.

    Raises:
        UserError: no mask has an image, or a name means several.
    """
    names, root = names_to_match(source)
    found = match_names(files.images, names, root)
    if not any(found.images):
        others = [other_image_name(each) for each in files.images]
        found = match_names([each or own for each, own in zip(others, files.images, strict=True)], names, root)
    if found.ambiguous:
        name, one, other = found.ambiguous[0]
        raise UserError(
            f"{files.where}: {name} may be of {one} or {other}: name only the folder of the images as IMAGES"
        )
    of_images: dict[int, Path] = {}
    alone = []
    for path, places in zip(files.paths, found.images, strict=True):
        if not places:
            alone.append(path.name)
        elif places[0] in of_images:
            raise UserError(f"{files.where}: {of_images[places[0]]} and {path} are both masks of {names[places[0]]}")
        else:
            of_images[places[0]] = path
    if not of_images:
        raise UserError(
            f"no mask of {files.where} is named as an image ({first_few(alone)}; images: {first_few(names)}): a mask has the "
            "name of its image, and ends in .png"
        )
    remarks = []
    if alone:
        remarks.append(
            f"{files.where}: {len(alone):,} of the masks have no image in IMAGES and are left out ({first_few(alone)})"
        )
    bare = [name for place, name in enumerate(names) if place not in of_images]
    if bare:
        remarks.append(f"IMAGES: {len(bare):,} of the images have no mask and are left out ({first_few(bare)})")
    ordered = sorted(of_images)
    return ordered, [of_images[place] for place in ordered], remarks


def _read_all(paths: Sequence[Path], logger: Logger, workers: int) -> tuple[list[Mask | None], list[tuple[Path, str]]]:
    """What each mask tells, None if it cannot be read; and path and reason of these."""
    bad: list[tuple[Path, str]] = []
    seen: list[Mask | None] = []
    made = made_ahead(lambda place: _look(paths[place]), range(len(paths)), workers)
    for path, each in zip(paths, logger.progress(made, len(paths), "reading masks"), strict=True):
        if isinstance(each, str):
            bad.append((path, each))
        seen.append(None if isinstance(each, str) else each)
    return seen, bad


def _look(path: Path) -> Mask | str:
    try:
        pixels = _read(path)
    except BadImage as error:
        return str(error)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    counts = np.bincount(pixels.reshape(-1), minlength=VALUES).astype(np.int32)
    return Mask(path, counts, digest, min(pixels.shape))


def _total(masks: Sequence[Mask]) -> Int[np.ndarray, "256"]:
    """Pixels of each value in all masks."""
    return sum((each.counts for each in masks), np.zeros(VALUES, dtype=np.int64))


def _read(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The values of a mask.

    Raises:
        BadImage: it cannot be read.
        UserError: it is a picture of several channels, or has values above 255.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"it cannot be read ({error.strerror})") from error
    pixels = decode_indices(data)
    if isinstance(pixels, str):
        raise UserError(
            f"{path} is no mask but {pixels}: a mask is a PNG file of one channel, gray or with a palette, whose values "
            "from 0 to 255 are the classes"
        )
    return pixels


def _check_values(classes: Classes, total: Int[np.ndarray, "256"], read: Sequence[Mask]) -> None:
    """Refuse masks with a value that is no class.

    Raises:
        UserError: one has.
    """
    strange = [int(value) for value in np.flatnonzero(total) if int(value) not in classes.known]
    if strange:
        holding = [each.path for each in read if each.counts[strange].any()]
        values = first_few(list(map(str, strange)), ", ")
        raise UserError(
            f"{len(holding):,} of the masks have values that are no class of {classes.where} ({values}), such as {holding[0]}: "
            "name them in --classes FILE.json, with null for those to ignore"
        )
