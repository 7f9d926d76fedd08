"""Augmented views of given images: always the same ones, none of which is ever trained on."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.data.augmentation.cpu import augment_batch, normalize
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.decoding.decode import decode
from coterie.data.sources.source import ImageSource
from coterie.logger import Logger, NullLogger

COUNT = 4
BATCH_SIZE = 64
_FIRST_EPOCH = -2  # the epochs of a run count from 0, the pass that fills a memory is -1


def views_of(
    source: ImageSource, indices: Int[np.ndarray, " n"], plan: ViewPlan, seed: int, count: int = COUNT
) -> Float[Tensor, "v n c h w"]:
    """Augmented views of some images, normalized: of the plan's crops those of the largest size.

    A pure function of the source and the arguments. A plan that has fewer such crops than ``count`` is drawn from several
    times. Views are drawn as in epochs -2, -3, ... of a run of this seed.

    Args:
        source: the images.
        indices: positions of those that are wanted.
        plan: how the views of the run are made; its mean and std are known.
        seed: of the draws.
        count: how many views of each image.

    Raises:
        BadImage: one of them cannot be decoded; ask for those that can be, which an embedding of the source says.
        UserError: an image has not as many channels as the plan.
    """
    assert plan.mean is not None
    assert plan.std is not None
    largest = [view for view, size in enumerate(plan.sizes) if size == max(plan.sizes)]
    images = [decode(source[int(index)], plan.channels) for index in indices]
    made: list[Tensor] = []
    while len(made) < count:
        draws = plan.sample_parameters(seed, _FIRST_EPOCH - len(made) // len(largest), indices)
        for same in augment_batch(images, plan, draws, largest[: count - len(made)]):
            tensors = [normalize(torch.from_numpy(view.copy())[None], plan.mean, plan.std) for view in same]
            made.append(torch.cat(tensors))
    return torch.stack(made)


def embedded_views(
    network: Callable[[Tensor], tuple[Tensor, ...]],
    source: ImageSource,
    indices: Int[np.ndarray, " n"],
    plan: ViewPlan,
    seed: int,
    *,
    count: int = COUNT,
    device: torch.device | str = "cpu",
    logger: Logger | None = None,
    what: str = "looking at views",
) -> tuple[Tensor, ...]:
    """What a network makes of :func:`views_of`, each ``[V, N, ...]``, on the CPU; holds the views of one batch at a time.

    Args:
        network: gives, for a batch of views, one or more tensors with a row for each.
        source: the images.
        indices: positions of those that are wanted.
        plan: how the views of the run are made.
        seed: of the draws.
        count: how many views of each image.
        device: where the network is.
        logger: is told how far it is.
        what: is told to the logger.
    """
    batches = [indices[first : first + BATCH_SIZE] for first in range(0, len(indices), BATCH_SIZE)]
    found: list[tuple[Tensor, ...]] = []
    for batch in (logger or NullLogger()).progress(batches, len(batches), what):
        views = views_of(source, batch, plan, seed, count)
        with torch.inference_mode():
            outputs = network(views.flatten(0, 1).to(device))
        found.append(tuple(each.cpu().reshape(count, len(batch), *each.shape[1:]) for each in outputs))
    return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
