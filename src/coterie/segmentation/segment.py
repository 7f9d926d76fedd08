"""Finds the class of each pixel: runs a segmenter over images of a source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coterie.config.hardware import Runtime
from coterie.data.decoding.decode import decode
from coterie.data.loading.whole_images import as_floats
from coterie.data.sources.source import ImageSource
from coterie.errors import BadImage
from coterie.segmentation.heads import resized
from coterie.segmentation.segmenter_file import Segmenter
from coterie.segmentation.training_images import seen_image, seen_size


@dataclass(frozen=True)
class Segmented:
    """What a segmenter finds in an image.

    Attributes:
        position: of the image in its source.
        labels: the class of each pixel.
    """

    position: int
    labels: UInt8[np.ndarray, "h w"]


def segment(
    segmenter: Segmenter, source: ImageSource, positions: Sequence[int], runtime: Runtime
) -> Iterator[Segmented | tuple[int, str]]:
    """Yield the class of each pixel of some images, in their order; of one that cannot be decoded, position and reason.

    Args:
        segmenter: in evaluation mode, on the device of ``runtime``.
        source: the images.
        positions: which of them.
        runtime: where and how to compute; its logger shows progress.
    """
    channels, value_range = segmenter.model.backbone.channels, segmenter.model.preprocessing.value_range
    for position in runtime.logger.progress(positions, len(positions), "segmenting"):
        try:
            pixels = as_floats(decode(source[position], channels, value_range=value_range)).to(runtime.device)
        except BadImage as error:
            yield position, str(error)
            continue
        yield Segmented(position, labels_of(segmenter, pixels).cpu().numpy())


@torch.no_grad()
def labels_of(segmenter: Segmenter, pixels: Float[Tensor, "c h w"]) -> UInt8[Tensor, "h w"]:
    """The likeliest class of each pixel of an image, at its own size.

    Args:
        segmenter: in evaluation mode.
        pixels: in [0, 1], on its device.
    """
    height, width = pixels.shape[1:]
    size = seen_size(height, width, segmenter.settings)
    scores = segmenter.network([seen_image(pixels, size)])[:, :, : size[0], : size[1]]
    return resized(scores, (height, width))[0].argmax(dim=0).to(torch.uint8)
