"""Measures the stages of loading an image in a loader process."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from coterie.data.augmentation.cpu import augment_crops_batch, crop_batch
from coterie.data.augmentation.gpu import pack_parameters
from coterie.data.augmentation.jpeg_scale import crops_downscale
from coterie.data.decoding.decode import StoredImage, decode
from coterie.data.loading.loader import Loader
from coterie.data.loading.workers import BatchRequest, ParameterDataset, stack_images
from coterie.errors import BadImage

READ, DECODE, CROP, COLOR, STACK = STAGES = ("read", "decode", "crop", "color", "stack")
SECONDS, MOST_IMAGES, BATCH_IMAGES = 3.0, 1024, 64


@dataclass
class Stages:
    """Time of one core, added up over some images: CPU time, but for reading wall-clock time.

    Attributes:
        seconds: time by stage.
        images: number of images loaded.
        jpegs: number of JPEG files among them.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    images: int = 0
    jpegs: int = 0

    def per_image(self) -> dict[str, float]:
        """Seconds of one core per image, by stage, in the order of the work."""
        return {stage: spent / max(1, self.images) for stage, spent in self.seconds.items()}


def measure_stages(loader: Loader) -> Stages:
    """Load a sample of the images in this process, on one thread, as a worker does, and time each stage.

    The sample is from the end of the first epoch: what a short run has just read would come from the page cache.

    Args:
        loader: the run's loader, prepared.
    """
    measure = _measure_parameters if loader.device_images is not None else _measure_views
    stages, threads, batch = Stages(), torch.get_num_threads(), min(loader.batch_size, BATCH_IMAGES)
    count = len(loader.source)
    order = loader.sampler.indices(0, max(0, count - MOST_IMAGES), count)
    torch.set_num_threads(1)  # as in a worker of torch's
    try:
        measure(Stages(), loader, order[:2])  # the first call is always slower
        began = time.perf_counter()
        for first in range(0, len(order), batch):
            measure(stages, loader, order[first : first + batch])
            if time.perf_counter() - began > SECONDS:
                break
    finally:
        torch.set_num_threads(threads)
    return stages


def _measure_parameters(stages: Stages, loader: Loader, indices: Int[np.ndarray, " b"]) -> None:
    """Measure a batch of images that are kept on the device: workers sample only the parameters of the views."""
    assert loader.device_images is not None
    worker = ParameterDataset(loader.plan, loader.seed, (loader.device_images.shape[2], loader.device_images.shape[3]))
    lap = _LapTimer()
    worker[BatchRequest(0, indices, loader.plan.roles.used)]
    stages.seconds[STACK] += lap()
    stages.images += len(indices)


def _measure_views(stages: Stages, loader: Loader, indices: Int[np.ndarray, " b"]) -> None:
    """Measure a batch of views, or of crops if the device augments them."""
    plan, used, began = loader.plan, loader.plan.roles.used, time.perf_counter()
    encoded = dict[int, StoredImage]()
    for index in indices.tolist():
        with suppress(BadImage):  # a run replaces it by the next image
            encoded[index] = loader.source[index]
    spent = {READ: time.perf_counter() - began}  # reading waits for a disk; all other stages compute
    images, kept, lap = [], [], _LapTimer()
    parameters = plan.sample_parameters(loader.seed, 0, indices)  # they limit how far a JPEG may be downscaled
    spent[STACK] = lap()
    for row, index in enumerate(indices.tolist()):
        with suppress(BadImage, KeyError):
            downscale = partial(crops_downscale, plan, parameters, row)
            images.append(decode(encoded[index], plan.channels, downscale, plan.range))
            kept.append(index)
    spent[DECODE] = lap()
    if len(kept) < len(indices):
        parameters = plan.sample_parameters(loader.seed, 0, np.array(kept, dtype=np.int64))
    views = crop_batch(iter(images), plan, parameters, used)
    spent[CROP] = lap()
    if loader.engine == "cpu" and images:
        views = augment_crops_batch(views, parameters, used)
        spent[COLOR] = lap()
    for view in views:
        stack_images(view)
    if loader.engine == "gpu":
        pack_parameters(parameters, used)
    spent[STACK] += lap()
    for stage, seconds in spent.items():
        stages.seconds[stage] += seconds
    stages.images += len(images)
    stages.jpegs += sum(isinstance(data, bytes) and data[:2] == b"\xff\xd8" for data in encoded.values())


class _LapTimer:
    """When called, returns the CPU time of this thread since the last call, whatever else uses the core."""

    def __init__(self) -> None:
        self.since = time.thread_time()

    def __call__(self) -> float:
        before, self.since = self.since, time.thread_time()
        return self.since - before
