"""Reads files of boxes in the format of COCO."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coterie.detection.boxes import BoxCollector, BoxFile, BoxRow
from coterie.errors import UserError
from coterie.formatting import first_few
from coterie.paths import expand

_ROW = tuple[tuple[float, float, float, float], int, bool, float | None]


def read_coco(path: str | Path, *, masks: bool = False) -> BoxFile:
    """Read the ``images``, ``annotations`` and ``categories`` of a COCO file, and check every one.

    Args:
        path: of the ``.json`` file.
        masks: keep the masks of objects, which are unchecked; of COCO itself, they take a gigabyte.

    Raises:
        UserError: it cannot be read, or something in it is missing, unknown or of another type, in one line that says where.
    """
    where = str(path)
    content = _content(expand(path), where, ("images", "annotations", "categories"))
    categories = _by_id(content["categories"], where, "categories", ("id", "name"))
    names = [str(each["name"]) for each in categories.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        raise UserError(f"{where}: " + (f"two categories are called {twice}" if twice else "it has no categories"))
    images = _by_id(content["images"], where, "images", ("id", "file_name", "width", "height"))
    places = {number: place for place, number in enumerate(categories)}
    rows: dict[int, list[BoxRow]] = {number: [] for number in images}
    strange: list[str] = []
    for place, entry in enumerate(content["annotations"]):
        which = f"{where}: annotations[{place}]"
        try:
            image, category = entry["image_id"], entry["category_id"]
        except (LookupError, TypeError) as error:
            raise UserError(f"{which} has no image_id or no category_id") from error
        if image not in rows:
            raise UserError(f"{which} is of image {image!r}, which is not among its images")
        if category not in places:
            strange.append(f"{category!r}")
            continue
        rows[image].append((*_row(entry, places[category], which), entry.get("segmentation") if masks else None))
    if strange:
        raise UserError(
            f"{where}: {len(strange):,} annotations are of categories that are not in the file ({first_few(_once(strange))}): "
            "add these to its categories"
        )
    collector = BoxCollector(where)
    found = tuple(
        collector.image(
            str(each["file_name"]), number, _size(each, f"{where}: image {each['file_name']}"), rows[number]
        )
        for number, each in images.items()
    )
    if not any(len(each.boxes) for each in found):
        raise UserError(f"{where} has no boxes: a detector needs some")
    return BoxFile(where, tuple(names), tuple(categories), found, remarks=collector.remarks(found))


def read_image_list(path: str | Path) -> BoxFile:
    """Read the ``images`` of a COCO file alone, as of COCO's own test images, whose boxes are not published.

    Args:
        path: of the ``.json`` file.

    Raises:
        UserError: as of :func:`read_coco`.
    """
    where = str(path)
    entries = _content(expand(path), where, ("images",))["images"]
    images = _by_id(entries, where, "images", ("id", "file_name", "width", "height"))
    collector = BoxCollector(where)
    found = [
        collector.image(str(each["file_name"]), number, _size(each, f"{where}: image {each['file_name']}"), ())
        for number, each in images.items()
    ]
    return BoxFile(where, (), (), tuple(found))


def _content(path: Path, where: str, lists: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON file: give a COCO file, or a folder of Pascal VOC's XML files") from error
    for name in lists:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{where} is no COCO file: it has no list of {name}")
    return dict(content)


def _by_id(entries: list[Any], where: str, kind: str, needed: tuple[str, ...]) -> dict[int, Mapping[str, Any]]:
    """Entries by their id, in the order of the file."""
    found: dict[int, Mapping[str, Any]] = {}
    for place, entry in enumerate(entries):
        missing = next((name for name in needed if not isinstance(entry, dict) or name not in entry), None)
        if missing is not None:
            raise UserError(f"{where}: {kind}[{place}] has no {missing}")
        number = entry["id"]
        if type(number) is not int:
            raise UserError(f"{where}: {kind}[{place}] has the id {number!r}: give whole numbers")
        if number in found:
            raise UserError(f"{where}: two of its {kind} have the id {number}")
        found[number] = entry
    return found


def _size(entry: Mapping[str, Any], which: str) -> tuple[int, int]:
    width, height = entry["width"], entry["height"]
    if not all(type(each) is int and 0 < each < 2**31 for each in (width, height)):
        raise UserError(f"{which} has the size {width!r} x {height!r}: give pixels")
    return width, height


def _row(entry: Mapping[str, Any], label: int, which: str) -> _ROW:
    box, area = entry.get("bbox"), entry.get("area")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        raise UserError(f"{which} has the bbox {box!r}: give left, top, width and height in pixels")
    if area is not None and not _is_number(area):
        raise UserError(f"{which} has the area {area!r}: give square pixels, or leave it out")
    left, top, width, height = map(float, box)
    ignored = bool(entry.get("iscrowd", 0))
    return (left, top, left + width, top + height), label, ignored, None if area is None else float(area)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))
