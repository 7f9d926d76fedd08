"""Augmented views of given images for evaluation: the same ones each time, and never those of a training step."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.augmentation.cpu import augment_batch, normalize
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.decode import decode
from coterie.data.sources.source import ImageSource
from coterie.embedding.forward import Network, Then, forward_pass
from coterie.signals import check_interrupted

VIEWS_PER_IMAGE = 4
IMAGES_PER_BATCH = 64
_FIRST_EPOCH = -2  # epochs of a run count from 0, and -1 is the pass that fills a memory


def augmented_views(
    source: ImageSource, indices: Int[np.ndarray, " n"], plan: ViewPlan, seed: int, count: int = VIEWS_PER_IMAGE
) -> Float[Tensor, "v n c h w"]:
    """Augment and normalize images by the largest crops of a plan.

    A pure function of its arguments. If the plan has fewer largest crops than ``count``, they are sampled several times.
    Parameters are sampled as for epochs -2, -3, ... of a run with this seed.

    Args:
        source: the images.
        indices: positions of the images to augment.
        plan: the augmentation of the run; its mean and std are known.
        seed: for the augmentation.
        count: number of views of each image.

    Raises:
        BadImage: an image cannot be decoded; pass only the images that an embedding of the source lists as decoded.
        UserError: an image does not have the number of channels of the plan.
    """
    assert plan.mean is not None
    assert plan.std is not None
    largest = [view for view, size in enumerate(plan.sizes) if size == max(plan.sizes)]
    images = [decode(source[int(index)], plan.channels, value_range=plan.range) for index in indices]
    views: list[Tensor] = []
    while len(views) < count:
        parameters = plan.sample_parameters(seed, _FIRST_EPOCH - len(views) // len(largest), indices)
        for same_view in augment_batch(images, plan, parameters, largest[: count - len(views)]):
            tensors = [normalize(torch.from_numpy(pixels.copy())[None], plan.mean, plan.std) for pixels in same_view]
            views.append(torch.cat(tensors))
    return torch.stack(views)


def embed_views(
    network: Network,
    source: ImageSource,
    indices: Int[np.ndarray, " n"],
    plan: ViewPlan,
    seed: int,
    *,
    count: int = VIEWS_PER_IMAGE,
    runtime: Runtime = ON_CPU,
    then: Then | None = None,
    what: str = "embedding augmented views",
) -> tuple[Tensor, ...]:
    """Apply a network to the :func:`augmented_views` of images, holding the views of one batch at a time.

    Args:
        network: as of :func:`coterie.embedding.forward.forward_pass`, as is ``then``.
        source: the images.
        indices: positions of the images to augment.
        plan: the augmentation of the run.
        seed: for the augmentation.
        count: number of views of each image.
        runtime: where the network is, and its precision; its logger receives progress.
        then: further outputs, computed from the first in float32.
        what: name of this work for the logger.

    Returns:
        The outputs of the network, ``[V, N, ...]`` each, on the CPU.
    """
    batches = [indices[first : first + IMAGES_PER_BATCH] for first in range(0, len(indices), IMAGES_PER_BATCH)]
    found, encode = list[tuple[Tensor, ...]](), forward_pass(network, runtime, then)
    for batch in runtime.logger.progress(batches, len(batches), what):
        check_interrupted()
        views = augmented_views(source, batch, plan, seed, count)
        outputs = encode(views.flatten(0, 1).to(runtime.device))
        found.append(tuple(each.cpu().reshape(count, len(batch), *each.shape[1:]) for each in outputs))
    return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
