"""Whether what a format has written computes what our own code computes, on the same images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.exporting.formats.exportable import Exportable, Written

_STEPS = (32, 16, 14, 8)


def verify(what: Exportable, written: Written, name: str) -> float:
    """Compare on batches of one and of three images, and, where images may have any size, of another size that is not square.

    Args:
        what: the model.
        written: what a format has written of it, opened again in the library that it is for.
        name: of the format.

    Returns:
        The largest difference, as a share of the largest value of its batch.

    Raises:
        UserError: it is larger than the format may have.
    """
    side, channels = what.model.preprocessing.size, what.model.backbone.channels
    shapes = [(1, side, side), (3, side, side)]
    if written.any_size:
        shapes += [(2, side, longer) for longer in longer_sides(what.model.network, channels, side)]
    largest = 0.0
    for count, height, width in shapes:
        pixels = _images(count, channels, height, width)
        pixels = pixels if written.bytes_in else pixels.float() / 255
        with torch.inference_mode():
            wanted, found = what.reference(pixels, written.output), written.run(pixels)
        if found.shape != wanted.shape:
            raise UserError(
                f"{written.library} returns {list(found.shape)} from what was written, and not {list(wanted.shape)}: "
                f"nothing is exported; use a format other than {name}"
            )
        largest = max(largest, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)))
        if not largest <= written.tolerance:  # also of NaN
            raise UserError(
                f"{written.library} computes something else from what was written: it differs by {largest:.1e} of the largest "
                f"value, and at most {written.tolerance:g} is allowed; nothing is exported; use a format other than {name}"
            )
    return largest


def longer_sides(network: nn.Module, channels: int, side: int) -> list[int]:
    """A longer side that a network takes beside this one; none if it takes no other.

    Args:
        network: takes normalized images.
        channels: of an image.
        side: of its images.
    """
    for step in _STEPS:
        try:
            with torch.inference_mode():
                network(torch.zeros(1, channels, side, side + step))
        except (RuntimeError, AssertionError, ValueError):
            continue
        return [side + step]
    return []


def _images(count: int, channels: int, height: int, width: int) -> Tensor:
    """Images that are smooth, noisy, and always the same, as uint8 ``[B, C, H, W]``."""
    generator = torch.Generator().manual_seed(count)
    smooth = torch.rand(count, channels, 5, 5, generator=generator)
    noise = torch.rand(count, channels, height, width, generator=generator)
    large = F.interpolate(smooth, (height, width), mode="bilinear")
    return (255 * (0.7 * large + 0.3 * noise)).round().to(torch.uint8)
