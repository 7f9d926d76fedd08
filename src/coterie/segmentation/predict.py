"""Writes what a segmenter finds: a mask and an overlay of each image, in a folder that is completed where it was left."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from coterie.atomic import make_folders, write_text, writing
from coterie.config.hardware import Runtime
from coterie.data.decoding.decode import decode_shown
from coterie.data.sources.file_names import is_image_name
from coterie.data.sources.source import ImageSource, random_positions
from coterie.embedding.cache import source_key, state_key
from coterie.errors import BadRun, NoImages, UserError
from coterie.evaluation.input_checks import warn_of_undecodable
from coterie.paths import expand
from coterie.segmentation.colors import class_colors, overlay, palette
from coterie.segmentation.segment import Segmented, segment
from coterie.segmentation.segmenter_file import Segmenter

MASKS, OVERLAYS, ABOUT = "masks", "overlays", "segmented.json"
SHOWN = 60
"""Images on the page: a random sample, always the same."""
_QUALITY = 90


@dataclass(frozen=True)
class SegmentedPicture:
    """An image as the page shows it.

    Attributes:
        name: of the image.
        pixels: of the image.
        overlay: the same with the colors of the classes.
        shares: of each class, of all pixels.
    """

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    overlay: UInt8[np.ndarray, "h w 3"]
    shares: Sequence[float]


@dataclass(frozen=True)
class SegmentedFolder:
    """What was written.

    Attributes:
        images: that are in the folder.
        counts: pixels of each class in all of them.
        pictures: some of them, for a page.
    """

    images: int
    counts: Int[np.ndarray, " k"]
    pictures: Sequence[SegmentedPicture]


def check_masks_folder(out: str | Path) -> Path:
    """Refuse a file, or a folder of something else, before anything is segmented; returns the path.

    Raises:
        UserError: it is one of them.
    """
    path = expand(out)
    if path.suffix in (".json", ".csv", ".parquet", ".png", ".html"):
        raise UserError(f"--out {out}: a segmenter writes a folder of masks: name one")
    if path.exists() and not (path.is_dir() and ((path / ABOUT).is_file() or not any(path.iterdir()))):
        raise UserError(f"{out} exists, and is no folder of masks that coterie predict wrote: choose another --out")
    return path


def write_masks(segmenter: Segmenter, source: ImageSource, out: str | Path, runtime: Runtime) -> SegmentedFolder:
    """Write masks, overlays and the names of classes to a folder; images that are there already are not segmented again.

    A mask is a PNG file with a palette, of the size of its image, whose values are those of the masks that the segmenter was
    trained on: ``masks`` can be given as ``--masks`` again.

    Args:
        segmenter: on the device of ``runtime``.
        source: the images.
        out: the folder.
        runtime: where and how to compute; its logger receives messages and progress.

    Raises:
        UserError: no image can be decoded, the folder holds something else, or it cannot be written.
    """
    logger, classes = runtime.logger, segmenter.classes
    logger.info(f"{segmenter.model.name}: a {segmenter.name}")
    folder, names = check_masks_folder(out), file_names([source.name(each) for each in range(len(source))])
    asked = {"segmenter": state_key(segmenter.network.state_dict()), "images": source_key(source) or str(len(source))}
    _begin(folder, asked)
    named = {str(value): name for name, value in zip(classes.names, classes.values, strict=True)}
    write_text(
        folder / MASKS / "classes.json", json.dumps(named | {str(each): None for each in classes.ignored}, indent=1)
    )
    missing = [each for each in range(len(source)) if not (folder / MASKS / f"{names[each]}.png").is_file()]
    if len(missing) < len(source):
        logger.info(f"{out}: {len(source) - len(missing):,} masks are there already")
    colors, bad = class_colors(classes.names), list[tuple[int, str]]()
    for each in segment(segmenter, source, missing, runtime):
        if isinstance(each, Segmented):
            _write(folder, names[each.position], each, source, segmenter, colors)
        else:
            bad.append(each)
    warn_of_undecodable(bad, "images", source.name, logger)
    refused = {position for position, _ in bad}
    kept = [each for each in range(len(source)) if each not in refused]
    if not kept:
        raise NoImages("no image can be decoded")
    return _summary(folder, names, kept, source, segmenter, colors)


def file_names(names: Sequence[str]) -> list[str]:
    """A path below a folder for each image, without suffix, of its name; those of the same name get a number.

    Of absolute names, what comes before the folder of all of them is left out.
    """
    made, taken = list[str](), set[str]()
    absolute = all(name.startswith("/") for name in names)
    before = os.path.commonpath([os.path.dirname(name) for name in names]) if absolute and names else ""  # noqa: PTH120
    for name in (each[len(before) :] for each in names):
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
        path = "/".join(parts) or "image"
        stem = path.rpartition(".")[0] if is_image_name(os.fsencode(path)) else path
        unique, number = stem, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{stem}-{number}"
        taken.add(unique.lower())
        made.append(unique)
    return made


def _begin(folder: Path, asked: dict[str, str]) -> None:
    """Note what a folder holds, or check it.

    Raises:
        BadRun: it holds the masks of another segmenter, or of other images.
    """
    file = folder / ABOUT
    if file.is_file():
        try:
            found = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            found = None
        if found != asked:
            raise BadRun(
                f"{folder} holds masks of another segmenter or of other images: choose another --out, or remove it"
            )
        return
    write_text(file, json.dumps(asked))


def _write(
    folder: Path, name: str, found: Segmented, source: ImageSource, segmenter: Segmenter, colors: np.ndarray
) -> None:
    """The overlay of an image, and then its mask, which says that both are there."""
    values = segmenter.classes.values
    image, mask = folder / OVERLAYS / f"{name}.jpg", folder / MASKS / f"{name}.png"
    for file in (image, mask):
        make_folders(file.parent)
    drawn = overlay(_shown(source, found.position, segmenter), found.labels, colors)
    with writing(image) as part:
        Image.fromarray(drawn).save(part, "JPEG", quality=_QUALITY)
    picture = Image.fromarray(np.array(values, dtype=np.uint8)[found.labels])
    picture.putpalette(palette(colors, values))
    with writing(mask) as part:
        picture.save(part, "PNG", optimize=True)


def _summary(
    folder: Path,
    names: Sequence[str],
    kept: Sequence[int],
    source: ImageSource,
    segmenter: Segmenter,
    colors: np.ndarray,
) -> SegmentedFolder:
    """What is in a folder, from its masks."""
    table = segmenter.classes.table
    shown = {kept[place] for place in random_positions(SHOWN, len(kept))}
    counts, pictures = np.zeros(len(segmenter.classes.names), dtype=np.int64), []
    for position in kept:
        with Image.open(folder / MASKS / f"{names[position]}.png") as mask:
            labels = table[np.asarray(mask)]
        own = np.bincount(labels.reshape(-1), minlength=len(counts))[: len(counts)]
        counts += own
        if position in shown:
            pixels = _shown(source, position, segmenter)
            pictures.append(
                SegmentedPicture(
                    source.name(position), pixels, overlay(pixels, labels, colors), (own / labels.size).tolist()
                )
            )
    return SegmentedFolder(len(kept), counts, pictures)


def _shown(source: ImageSource, position: int, segmenter: Segmenter) -> UInt8[np.ndarray, "h w 3"]:
    """An image as people see it, in the range of values that the network was trained with."""
    return decode_shown(source[position], segmenter.model.preprocessing.value_range)
