"""What one image costs a process that loads images, stage by stage."""

import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from coterie.data.augmentation.cpu import augment_crops_batch, crop_batch
from coterie.data.augmentation.gpu import pack_parameters
from coterie.data.augmentation.jpeg_scale import crops_downscale
from coterie.data.decoding.decode import decode
from coterie.data.loading.loader import Loader
from coterie.data.loading.workers import BatchRequest, ParameterDataset, stack_images
from coterie.errors import BadImage

READ, DECODE, CROP, COLOR, STACK = STAGES = ("read", "decode", "crop", "color", "stack")
SECONDS, MOST_IMAGES, TOGETHER = 3.0, 1024, 64


@dataclass
class Stages:
    """Seconds of work of one core, summed up over some images; of reading, seconds that passed.

    Attributes:
        seconds: by stage.
        images: how many were loaded.
        jpegs: how many of them were JPEG files.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    images: int = 0
    jpegs: int = 0

    def of_an_image(self) -> dict[str, float]:
        """Seconds of one core an image, in the order of the work."""
        return {stage: spent / max(1, self.images) for stage, spent in self.seconds.items()}


def measure_stages(loader: Loader) -> Stages:
    """Load a sample of the images in this process, on one thread, as a worker does, and time each stage apart.

    The sample is the end of the first epoch: what a short run has just read would come out of the page cache.

    Args:
        loader: of the run, prepared.
    """
    measure = _draws if loader.device_images is not None else _views
    found, threads, together = Stages(), torch.get_num_threads(), min(loader.batch_size, TOGETHER)
    count = len(loader.source)
    order = loader.sampler.indices(0, max(0, count - MOST_IMAGES), count)
    torch.set_num_threads(1)  # as torch has it in a worker
    try:
        measure(Stages(), loader, order[:2])  # the first call of anything takes longer
        began = time.perf_counter()
        for first in range(0, len(order), together):
            measure(found, loader, order[first : first + together])
            if time.perf_counter() - began > SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    return found


def _draws(found: Stages, loader: Loader, indices: Int[np.ndarray, " b"]) -> None:
    """Where the images live on the device, workers send nothing but numbers."""
    assert loader.device_images is not None
    worker = ParameterDataset(loader.plan, loader.seed, (loader.device_images.shape[2], loader.device_images.shape[3]))
    lap = _Laps()
    worker[BatchRequest(0, indices, loader.plan.roles.used)]
    found.seconds[STACK] += lap()
    found.images += len(indices)


def _views(found: Stages, loader: Loader, indices: Int[np.ndarray, " b"]) -> None:
    """Views, or crops where the device does the rest."""
    plan, wanted, began = loader.plan, loader.plan.roles.used, time.perf_counter()
    encoded = [loader.source[int(index)] for index in indices]
    spent = {READ: time.perf_counter() - began}  # a disk is waited for; all else is work
    images, kept, lap = [], [], _Laps()
    draws = plan.sample_parameters(loader.seed, 0, indices)  # they say how far a JPEG may be reduced
    spent[STACK] = lap()
    for row, (index, data) in enumerate(zip(indices, encoded, strict=True)):
        try:
            images.append(decode(data, plan.channels, partial(crops_downscale, plan, draws, row)))
            kept.append(index)
        except BadImage:  # the run takes the next one
            continue
    spent[DECODE] = lap()
    if len(kept) < len(indices):
        draws = plan.sample_parameters(loader.seed, 0, np.array(kept, dtype=np.int64))
    views = crop_batch(iter(images), plan, draws, wanted)
    spent[CROP] = lap()
    if loader.engine == "cpu" and images:
        views = augment_crops_batch(views, draws, wanted)
        spent[COLOR] = lap()
    for view in views:
        stack_images(view)
    if loader.engine == "gpu":
        pack_parameters(draws, wanted)
    spent[STACK] += lap()
    for stage, seconds in spent.items():
        found.seconds[stage] += seconds
    found.images += len(images)
    found.jpegs += sum(isinstance(data, bytes) and data[:2] == b"\xff\xd8" for data in encoded)


class _Laps:
    """Called, it says how many seconds this thread has worked since it was called before; others may use the core, too."""

    def __init__(self) -> None:
        self.since = time.thread_time()

    def __call__(self) -> float:
        before, self.since = self.since, time.thread_time()
        return self.since - before
