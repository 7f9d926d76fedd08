"""How far a JPEG may be downscaled while it is decoded, without any effect on what is cropped from it."""

from coterie.data.augmentation.parameters import CropBox, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.jpeg import downscaled_size

_FACTORS = (8, 4, 2)
_TOLERANCE = 3  # pixels of the downscaled image: rounding moves an edge by less


def crops_downscale(plan: ViewPlan, parameters: ViewParameters, row: int, height: int, width: int) -> int:
    """The largest factor at which each crop is still at least as large as its view in both directions.

    So nothing is enlarged that was not before, and a crop of the downscaled image is that of the full image, except for
    rounding. All views of the plan count, even those not made: a view must not depend on what is made beside it.

    Args:
        plan: Gives the size of each view.
        parameters: Parameters of a batch that contains this image.
        row: Row of the image in that batch.
        height: Height of the full image, in pixels.
        width: Width of the full image, in pixels.

    Returns:
        1, 2, 4 or 8.
    """
    sizes = plan.sizes
    if min(downscaled_size(height, width, 2)) < max(sizes):  # such as ImageNet's usual 500 x 375: skip the boxes
        return 1
    full_boxes = parameters.boxes(row, height, width)
    for factor in _FACTORS:
        if all(min(box[2:]) >= factor * (size - 1) for box, size in zip(full_boxes, sizes, strict=True)):
            boxes = parameters.boxes(row, *downscaled_size(height, width, factor))
            large = all(min(box[2:]) >= size for box, size in zip(boxes, sizes, strict=True))
            if large and all(_same_place(box, full, factor) for box, full in zip(boxes, full_boxes, strict=True)):
                return factor
    return 1


def _same_place(box: CropBox, full_box: CropBox, factor: int) -> bool:
    """Whether a box is that of the full image: rounding may make another of the ten attempts the first that fits."""
    return all(abs(edge * factor - full) < _TOLERANCE * factor for edge, full in zip(box, full_box, strict=True))


def square_downscale(side: float, size: int) -> int:
    """The largest factor at which a square of this side still covers a view of this size.

    Args:
        side: Side of the square in the full image, in pixels.
        size: Height and width of the view, in pixels.

    Returns:
        1, 2, 4 or 8.
    """
    return next((factor for factor in _FACTORS if side >= factor * size), 1)
