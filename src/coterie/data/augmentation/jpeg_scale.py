"""How far an image may be reduced in decoding: what nothing that is cut out of it would show."""

from coterie.data.augmentation.parameters import Box, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.jpeg import reduced

_FACTORS = (8, 4, 2)
_NEAR = 3  # pixels: rounding moves an edge by less


def crops_shrink(plan: ViewPlan, draws: ViewParameters, row: int, height: int, width: int) -> int:
    """By how much an image may be divided so that each crop is still at least as large as its view in both directions.

    Nothing is then enlarged that was not before. A crop of the reduced image is that of the whole one but for rounding.
    All views of the plan count, wanted or not: what a view looks like depends on no other that is made beside it.

    Args:
        plan: says the size of each view.
        draws: of a batch that has this image.
        row: the image's place in that batch.
        height: of the whole image.
        width: of the whole image.

    Returns:
        1, 2, 4 or 8.
    """
    sizes = plan.sizes
    if min(reduced(height, width, 2)) < max(sizes):  # as of ImageNet's usual 500 x 375: no box need be asked for
        return 1
    whole = draws.boxes(row, height, width)
    for factor in _FACTORS:
        if all(min(box[2:]) >= factor * (size - 1) for box, size in zip(whole, sizes, strict=True)):
            boxes = draws.boxes(row, *reduced(height, width, factor))
            large = all(min(box[2:]) >= size for box, size in zip(boxes, sizes, strict=True))
            if large and all(_alike(box, other, factor) for box, other in zip(boxes, whole, strict=True)):
                return factor
    return 1


def _alike(box: Box, whole: Box, factor: int) -> bool:
    """Whether a box is the whole image's: rounding may make another of the ten tries the first that fits."""
    return all(abs(place * factor - other) < _NEAR * factor for place, other in zip(box, whole, strict=True))


def whole_shrink(side: float, size: int) -> int:
    """By how much an image may be divided of which a square of this side is to become a view of this size: 1, 2, 4 or 8."""
    return next((factor for factor in _FACTORS if side >= factor * size), 1)
