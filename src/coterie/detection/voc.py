"""Reads folders of boxes in the format of Pascal VOC: an XML file for each image."""

import math
from pathlib import Path
from xml.etree import ElementTree as ET

from coterie.detection.boxes import BoxCollector, BoxFile
from coterie.detection.coco import read_coco
from coterie.errors import UserError
from coterie.paths import expand

_LARGEST_FILE = 2**24  # bytes: those of VOC have a few thousand


def read_boxes(path: str | Path, *, masks: bool = False) -> BoxFile:
    """Read boxes: a file of COCO, or a folder of Pascal VOC's XML files.

    Args:
        path: of the file or the folder.
        masks: keep the masks of objects, unchecked, of which a folder of VOC has none.

    Raises:
        UserError: it cannot be read, or something in it is missing, unknown or of another type, in one line that says where.
    """
    found = expand(path)
    if not found.exists():
        raise UserError(f"--boxes {path} does not exist: give a COCO file, or a folder of Pascal VOC's XML files")
    return read_voc(path) if found.is_dir() else read_coco(path, masks=masks)


def read_voc(folder: str | Path) -> BoxFile:
    """Read a folder of Pascal VOC's XML files; ``difficult`` objects are ignored, as in its evaluation.

    Edges are counted from 1 and belong to the box (Everingham et al. 2010): a box from 1 to 1 is one pixel wide.

    Args:
        folder: ``Annotations`` of a release of VOC, or any folder of such files.

    Raises:
        UserError: there are none, or one is damaged or lacks something, in one line that says which.
    """
    where, files = str(folder), sorted(expand(folder).glob("*.xml"))
    if not files:
        raise UserError(f"{where} has no XML files: give a COCO file, or a folder of Pascal VOC's XML files")
    trees = {file: _tree(file) for file in files}
    named = {_text(each, "name", file) for file, tree in trees.items() for each in tree.iter("object")}
    if not named:
        raise UserError(f"{where} has no boxes: a detector needs some")
    categories = tuple(sorted(named))
    collector = BoxCollector(where)
    images = []
    for number, (file, tree) in enumerate(trees.items(), start=1):
        width, height = (round(_number(tree, f"size/{side}", file)) for side in ("width", "height"))
        if min(width, height) < 1:
            raise UserError(f"{file} says that its image has {width} x {height} pixels")
        rows = []
        for each in tree.iter("object"):
            left, top, right, bottom = (
                _number(each, f"bndbox/{edge}", file) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            label = categories.index(_text(each, "name", file))
            ignored = each.findtext("difficult", "0").strip() == "1"
            rows.append(((left - 1, top - 1, right, bottom), label, ignored, None, None))
        name = (tree.findtext("filename") or "").strip() or file.stem
        images.append(collector.image(name, number, (width, height), rows))
    numbers, remarks = tuple(range(1, len(categories) + 1)), collector.remarks(images)
    return BoxFile(where, categories, numbers, tuple(images), complete=False, remarks=remarks)


def _tree(file: Path) -> ET.Element:
    """The content of a file; entities are bounded by expat itself."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise UserError(f"{file} has more than {_LARGEST_FILE // 2**20} MiB: it is no annotation of VOC")
        tree = ET.fromstring(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{file} is no XML file: {error}") from error
    if tree.tag != "annotation":
        raise UserError(f"{file} is no annotation of Pascal VOC: it begins with <{tree.tag}>")
    return tree


def _text(element: ET.Element, name: str, file: Path) -> str:
    found = (element.findtext(name) or "").strip()
    if not found:
        raise UserError(f"{file} has an {element.tag} without {name}")
    return found


def _number(element: ET.Element, name: str, file: Path) -> float:
    text = _text(element, name, file)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{file} has an {element.tag} whose {name} is {text[:40]!r}: give a number")
    return value
