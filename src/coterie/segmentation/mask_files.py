"""Where the masks of a data set lie, which image each is of, and which classes its layout has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.errors import UserError
from coterie.paths import expand
from coterie.segmentation.classes import Classes, known_classes, read_classes

_TRAIN_IDS, _LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
_OTHERS = ("_gtFine_color.png", "_gtFine_instanceIds.png", "_gtFine_instanceTrainIds.png")
_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_seg", "_gt")
"""That the name of a mask may have after the name of its image."""
_CLASS_FILES = ("classes.txt", "classes.json")
KNOWN = ("voc", "cityscapes", "ade20k")


@dataclass(frozen=True)
class MaskFiles:
    """The masks of a data set, as their names and their folder tell.

    Attributes:
        where: as the user named them.
        paths: of the masks.
        images: of each mask, what its image is called.
        classes: of this layout, or of a file; None: the values that the masks have.
    """

    where: str
    paths: tuple[Path, ...]
    images: tuple[str, ...]
    classes: Classes | None


def find_masks(masks: str | Path, classes: str | Path | None) -> MaskFiles:
    """Find masks: PNG files below a folder, or those that a list of VOC names (``ImageSets/Segmentation/train.txt``).

    Args:
        masks: the folder or the list.
        classes: a file of class names, or ``voc``, ``cityscapes`` or ``ade20k``; None: as the layout says, or a
            ``classes.txt`` or ``classes.json`` in the folder.

    Raises:
        UserError: there are none, or the file of classes cannot be used.
    """
    path = expand(masks)
    if path.suffix == ".txt":
        folder, files = _listed(path)
    elif path.is_dir():
        folder, files = path, sorted(each for each in path.rglob("*") if each.suffix.lower() == ".png")
    else:
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"{masks} {what}: name the folder of the masks, or a list of VOC's ImageSets/Segmentation")
    files, layout = _of_cityscapes(files)
    if not files:
        raise UserError(f"{masks} has no PNG files: a mask is a PNG file of one channel, named as its image")
    own = known_classes(layout or _layout(folder)) if classes is None else _named(classes, layout)
    chosen = (_beside(folder) if classes is None else None) or own
    return MaskFiles(str(masks), tuple(files), tuple(_image_name(each, folder) for each in files), chosen)


def _listed(path: Path) -> tuple[Path, list[Path]]:
    """The masks that a list of Pascal VOC names.

    Raises:
        UserError: the list or one of the masks is missing.
    """
    folder = path.absolute().parents[min(2, len(path.absolute().parents) - 1)] / "SegmentationClass"
    try:
        names = path.read_text("utf-8").split()
    except (OSError, ValueError):
        raise UserError(f"{path} cannot be read: name the folder of the masks, or a list of VOC's") from None
    files = [folder / f"{name}.png" for name in names]
    missing = [each for each in files if not each.is_file()]
    if missing:
        raise UserError(f"{path} lists masks that are not there, {len(missing):,} of them: {missing[0]}")
    return folder, files


def _of_cityscapes(files: Sequence[Path]) -> tuple[list[Path], str]:
    """Of a folder of Cityscapes the masks of one kind, train ids if there are any, and its layout; else all files, and ''."""
    for ending, layout in ((_TRAIN_IDS, "cityscapes"), (_LABEL_IDS, "cityscapes_label_ids")):
        found = [each for each in files if each.name.endswith(ending)]
        if found:
            return found, layout
    return [each for each in files if not each.name.endswith(_OTHERS)], ""


def _layout(folder: Path) -> str:
    """The layout that a folder of masks belongs to; '' if it is none that is known."""
    folder = folder.absolute()
    if folder.name.startswith("SegmentationClass") and (folder.parent / "JPEGImages").is_dir():
        return "voc"
    above = [folder, *folder.parents][:3]
    ade = any((each / "objectInfo150.txt").is_file() or each.name == "ADEChallengeData2016" for each in above)
    return "ade20k" if ade and any(each.name == "annotations" for each in above) else ""


def _named(classes: str | Path, layout: str) -> Classes:
    """The classes that a user names."""
    name = str(classes)
    if name == "cityscapes":
        name = layout or name
    known = known_classes(name)
    if known is None and Path(name).suffix not in (".txt", ".json"):
        raise UserError(f"--classes is {name}: name a .txt or .json file of class names, or {', '.join(KNOWN)}")
    return known or read_classes(name)


def _beside(folder: Path) -> Classes | None:
    file = next((folder / name for name in _CLASS_FILES if (folder / name).is_file()), None)
    return None if file is None else read_classes(file)


def _image_name(mask: Path, folder: Path) -> str:
    """What the image of a mask is called, as a path below the folder of the images."""
    name = mask.relative_to(folder).as_posix()
    for ending in (_TRAIN_IDS, _LABEL_IDS):
        if name.endswith(ending):
            return f"{name.removesuffix(ending)}_leftImg8bit.png"
    return name


def other_image_name(name: str) -> str | None:
    """The name without what may follow the image's: ``a_mask.png`` becomes ``a.png``; None if nothing does."""
    stem, dot, suffix = name.rpartition(".")
    ending = next((each for each in _ENDINGS if stem.endswith(each)), None)
    return None if ending is None else f"{stem.removesuffix(ending)}{dot}{suffix}"
