"""Finds objects: runs a detector over images of a source."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from coterie.config.hardware import Runtime
from coterie.data.decoding.decode import decode
from coterie.data.loading.whole_images import as_floats
from coterie.data.sources.source import ImageSource
from coterie.detection.detector_file import Detector
from coterie.detection.masks import pack_map
from coterie.errors import BadImage

_INSIDE = 0.5
"""The least probability of a pixel of a mask (He et al. 2017)."""


@dataclass(frozen=True)
class Detections:
    """What a detector finds in an image.

    Attributes:
        position: of the image in its source.
        size: width and height of the image in pixels.
        boxes: left, top, right and bottom edge of each object in pixels, the surest first.
        labels: place of each one's category.
        scores: how sure the detector is of each, in [0, 1].
        masks: of a Mask R-CNN, that of each as runs of pixels (COCO's packed RLE); empty of others.
    """

    position: int
    size: tuple[int, int]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    masks: tuple[Mapping[str, Any], ...] = ()


def detect(
    detector: Detector, source: ImageSource, positions: Sequence[int], runtime: Runtime
) -> Iterator[Detections | tuple[int, str]]:
    """Yield what a detector finds in some images, in their order; of one that cannot be decoded, position and reason.

    Args:
        detector: in evaluation mode, on the device of ``runtime``.
        source: the images.
        positions: which of them.
        runtime: where and how to compute; its logger shows progress.
    """
    channels, value_range = detector.model.backbone.channels, detector.model.preprocessing.value_range
    for position in runtime.logger.progress(positions, len(positions), "detecting"):
        try:
            image = decode(source[position], channels, value_range=value_range)
        except BadImage as error:
            yield position, str(error)
            continue
        pixels = as_floats(image).to(runtime.device)
        with torch.no_grad():
            (found,) = detector.network([pixels])
        boxes, labels, scores = (found[name].cpu().numpy() for name in ("boxes", "labels", "scores"))
        order = np.argsort(-scores, kind="stable")
        maps = found["masks"][:, 0].cpu().numpy() > _INSIDE if "masks" in found else ()
        yield Detections(
            position,
            (image.shape[1], image.shape[0]),
            boxes[order].astype(np.float64),
            labels[order].astype(np.int64) - 1,
            scores[order].astype(np.float64),
            tuple(pack_map(maps[place]) for place in order) if len(maps) else (),
        )
