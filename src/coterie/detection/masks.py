"""Masks of objects as COCO files have them: polygons, or runs of pixels (RLE); pycocotools draws and packs them."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from coterie.detection.boxes import BoxedImage, BoxFile
from coterie.errors import UserError

_LEAST = 6
"""Numbers of a polygon: three points."""


def check_masks(file: BoxFile) -> None:
    """Check that every object that is trained on has a mask that can be drawn.

    Args:
        file: the boxes.

    Raises:
        UserError: one has none, or one of another size or form, in one line that says where.
    """
    for image in file.images:
        for place, mask in enumerate(image.masks or (None,) * len(image.boxes)):
            if image.ignored[place]:
                continue
            if not mask:
                raise UserError(
                    f"{file.where}: {image.name} has an object without segmentation: a Mask R-CNN needs the mask of each; use "
                    "--detector faster_rcnn"
                )
            why = _wrong(mask, image)
            if why:
                raise UserError(f"{file.where}: {image.name} has a segmentation that {why}")


def has_masks(images: Sequence[BoxedImage]) -> bool:
    """Whether all objects that count have a mask.

    Args:
        images: with their boxes.
    """
    return any(len(each.boxes) for each in images) and all(
        mask or ignored
        for each in images
        for mask, ignored in zip(each.masks or (None,) * len(each.boxes), each.ignored, strict=True)
    )


def packed(mask: Any, width: int, height: int) -> dict[str, Any]:
    """A mask as runs of pixels, as pycocotools packs it.

    Args:
        mask: polygons or RLE, checked.
        width: of the image in pixels.
        height: likewise.
    """
    from pycocotools import mask as coco_mask

    if isinstance(mask, list):
        found: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        found = coco_mask.frPyObjects(mask, height, width)
    else:
        found = {"size": list(mask["size"]), "counts": mask["counts"].encode()}
    return found


def draw_masks(image: BoxedImage) -> UInt8[np.ndarray, "n h w"]:
    """The masks of the objects of an image that are trained on, 1 within and 0 elsewhere.

    Args:
        image: whose masks are checked.
    """
    from pycocotools import mask as coco_mask

    kept = [mask for mask, ignored in zip(image.masks, image.ignored, strict=True) if not ignored]
    maps = [coco_mask.decode(packed(mask, image.width, image.height)) for mask in kept]
    return np.stack(maps) if maps else np.zeros((0, image.height, image.width), dtype=np.uint8)


def pack_map(values: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """The mask that a detector has found as plain values of JSON.

    Args:
        values: of each pixel of the image.
    """
    from pycocotools import mask as coco_mask

    found = coco_mask.encode(np.asfortranarray(values.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode()}


def masks_key(images: Sequence[BoxedImage]) -> str:
    """Identify masks.

    Args:
        images: with their masks.
    """
    digest = hashlib.sha256()
    for each in images:
        digest.update(json.dumps(each.masks).encode())
    return digest.hexdigest()[:16]


def _wrong(mask: Any, image: BoxedImage) -> str | None:
    """What is wrong with a mask; None: nothing."""
    if isinstance(mask, list):
        fine = all(isinstance(each, list) and len(each) >= _LEAST and len(each) % 2 == 0 for each in mask)
        fine = fine and all(type(value) in (int, float) and math.isfinite(value) for each in mask for value in each)
        return None if fine else "is no list of polygons: give x, y of three points or more for each"
    size, counts = (mask.get(name) for name in ("size", "counts")) if isinstance(mask, dict) else (None, None)
    if size != [image.height, image.width]:
        return f"has the size {size}, and the image {[image.height, image.width]} (height, width)"
    if isinstance(counts, list):
        whole = all(type(each) is int and each >= 0 for each in counts)
        return (
            None if whole and sum(counts) == image.height * image.width else "does not have as many pixels as its image"
        )
    return None if _unpacks(counts, image) else "is no run of pixels that pycocotools can read"


def _unpacks(counts: Any, image: BoxedImage) -> bool:
    """Whether packed counts are those of as many pixels: pycocotools itself would read beyond its memory."""
    if not isinstance(counts, str) or not counts.isascii():
        return False
    total, runs, place = 0, list[int](), 0
    while place < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if place == len(counts):
                return False
            code = ord(counts[place]) - 48
            if not 0 <= code < 64:
                return False
            value |= (code & 0x1F) << (5 * shift)
            more, place, shift = bool(code & 0x20), place + 1, shift + 1
            if not more and code & 0x10:
                value |= -1 << (5 * shift)
        value += runs[-2] if len(runs) > 2 else 0
        if value < 0:
            return False
        runs.append(value)
        total += value
    return total == image.height * image.width
