"""The images and boxes of each training step: decoded ahead by threads, flipped at random."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coterie.data.decoding.decode import decode
from coterie.data.loading.whole_images import as_floats, drawn_places, is_flipped, made_ahead
from coterie.detection.boxes import BoxedImage, BoxedSource
from coterie.detection.masks import draw_masks
from coterie.errors import BadImage


@dataclass(frozen=True)
class DetectionBatch:
    """The images of a step.

    Attributes:
        images: each ``[C, H, W]``, float32 in [0, 1].
        targets: of each image, as torchvision takes them: ``boxes`` ``[n, 4]`` and ``labels`` ``[n]`` from 1 on, for a
            Mask R-CNN ``masks`` ``[n, H, W]``.
        bad: name and reason of each image that could not be used.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    bad: list[tuple[str, str]] = field(default_factory=list)

    def to(self, device: torch.device) -> "DetectionBatch":
        """The same on a device."""
        targets = [{name: value.to(device) for name, value in each.items()} for each in self.targets]
        return DetectionBatch([each.to(device) for each in self.images], targets, self.bad)


def read_pixels(boxed: BoxedSource, place: int, channels: int) -> Float[Tensor, "c h w"]:
    """Decode an image of a boxed source, in [0, 1].

    Args:
        boxed: the images.
        place: of the image among them.
        channels: as the network takes them.

    Raises:
        BadImage: it cannot be decoded, or has another size than the file of boxes says.
    """
    image = decode(boxed.source[boxed.positions[place]], channels, value_range=boxed.value_range)
    said = boxed.file.images[place]
    if image.shape[:2] != (said.height, said.width):
        found = f"{image.shape[1]} x {image.shape[0]}"
        raise BadImage(f"{found} pixels where its boxes are for {said.width} x {said.height}")
    return as_floats(image)


def training_batches(
    boxed: BoxedSource, channels: int, batch_size: int, steps: range, seed: int, workers: int, *, masks: bool = False
) -> Iterator[DetectionBatch]:
    """Yield the images of some steps; each is a pure function of seed and step.

    Images are shuffled anew for each pass; a pass goes on within a step.

    Args:
        boxed: the images.
        channels: as the network takes them.
        batch_size: images per step.
        steps: numbers of the steps.
        seed: of order and flips.
        workers: threads that decode; 0: this one, when an image is needed.
        masks: with the masks of objects.
    """
    batch = partial(_batch, boxed, channels, batch_size, seed=seed, masks=masks)
    return made_ahead(batch, steps, workers)


def _batch(boxed: BoxedSource, channels: int, batch_size: int, step: int, *, seed: int, masks: bool) -> DetectionBatch:
    batch = DetectionBatch([], [])
    for drawn, place in drawn_places(len(boxed.positions), batch_size, step, seed):
        said = boxed.file.images[place]
        try:
            image = read_pixels(boxed, place, channels)
        except BadImage as error:
            batch.bad.append((said.name, str(error)))
            continue
        flipped = is_flipped(drawn, seed)
        batch.images.append(image.flip(2) if flipped else image)
        batch.targets.append(_target(said, flipped, masks=masks))
    return batch


def _target(image: BoxedImage, flipped: bool, *, masks: bool) -> dict[str, Tensor]:
    boxes = image.boxes[~image.ignored]
    if flipped:
        boxes = np.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], axis=1)
    labels = torch.from_numpy(image.labels[~image.ignored] + 1)
    target = {"boxes": torch.from_numpy(boxes).float(), "labels": labels}
    if masks:
        maps = draw_masks(image)
        target["masks"] = torch.from_numpy(np.ascontiguousarray(maps[:, :, ::-1] if flipped else maps))
    return target
