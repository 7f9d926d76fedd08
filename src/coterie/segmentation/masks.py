"""Images with masks: each mask is read once, checked and counted, before anything is trained on it."""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from coterie.data.decoding.decode import decode_indices
from coterie.data.loading.whole_images import made_ahead
from coterie.data.sources.name_matching import match_names, names_to_match
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage, UserError
from coterie.formatting import first_few
from coterie.logger import Logger
from coterie.segmentation.classes import VALUES, Classes, found_classes, in_order
from coterie.segmentation.mask_files import MaskFiles, find_masks, other_image_name


@dataclass(frozen=True)
class MaskedSource:
    """Images of a source, with their masks.

    Attributes:
        source: holds these images and perhaps others.
        positions: of each image in the source.
        paths: of the mask of each.
        classes: of the masks.
        counts: pixels of each class in all masks.
        short_side: of the masks in pixels, the median.
        digest: identifies the masks and what they mean.
        where: the masks as the user named them.
        remarks: a line for people about each kind of thing that was not used as it was.
    """

    source: ImageSource
    positions: tuple[int, ...]
    paths: tuple[Path, ...]
    classes: Classes
    counts: Int[np.ndarray, " k"]
    short_side: int
    digest: str
    where: str
    remarks: tuple[str, ...]

    def labels(self, place: int) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel of an image, :data:`coterie.segmentation.classes.IGNORED` for none.

        Raises:
            BadImage: the mask cannot be read any more.
        """
        labels: np.ndarray = self.classes.table[_read(self.paths[place])]
        return labels


@dataclass(frozen=True)
class _Seen:
    """What reading a mask tells."""

    counts: Int[np.ndarray, "256"]
    digest: bytes
    short_side: int


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
    read = [each for each in seen if each is not None]
    total = np.sum([each.counts for each in read], axis=0)
    chosen = files.classes or default
    if chosen is None:
        chosen, line = found_classes(total, files.where)
        remarks.append(line)
    elif files.classes is not None:
        chosen = in_order(chosen, total, default)
    _check_values(chosen, total, [(paths[place], each) for place, each in zip(kept, read, strict=True)])
    digest = hashlib.sha256(repr((chosen.names, chosen.values, chosen.ignored)).encode())
    for each in read:
        digest.update(each.digest)
    return MaskedSource(
        source,
        tuple(places[each] for each in kept),
        tuple(paths[each] for each in kept),
        chosen,
        total[list(chosen.values)],
        round(statistics.median(each.short_side for each in read)),
        digest.hexdigest()[:16],
        files.where,
        tuple(remarks),
    )


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


def _read_all(paths: Sequence[Path], logger: Logger, workers: int) -> tuple[list[_Seen | None], list[tuple[Path, str]]]:
    """What each mask tells, None if it cannot be read; and path and reason of these."""
    bad: list[tuple[Path, str]] = []
    seen: list[_Seen | None] = []
    made = made_ahead(lambda place: _look(paths[place]), range(len(paths)), workers)
    for path, each in zip(paths, logger.progress(made, len(paths), "reading masks"), strict=True):
        if isinstance(each, str):
            bad.append((path, each))
        seen.append(None if isinstance(each, str) else each)
    return seen, bad


def _look(path: Path) -> _Seen | str:
    try:
        pixels = _read(path)
    except BadImage as error:
        return str(error)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    return _Seen(np.bincount(pixels.reshape(-1), minlength=VALUES), digest, min(pixels.shape))


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


def _check_values(classes: Classes, total: Int[np.ndarray, "256"], read: Sequence[tuple[Path, _Seen]]) -> None:
    """Refuse masks with a value that is no class.

    Raises:
        UserError: one has.
    """
    strange = [int(value) for value in np.flatnonzero(total) if int(value) not in classes.known]
    if strange:
        holding = [path for path, each in read if each.counts[strange].any()]
        values = first_few(list(map(str, strange)), ", ")
        raise UserError(
            f"{len(holding):,} of the masks have values that are no class of {classes.where} ({values}), such as {holding[0]}: "
            "name them in --classes FILE.json, with null for those to ignore"
        )
