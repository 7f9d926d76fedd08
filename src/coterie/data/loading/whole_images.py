"""Whole images for training with boxes or masks: their order and flips, and threads that make batches ahead."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_AHEAD = 2
"""Steps whose batches are made ahead, at least."""

Made = TypeVar("Made")


def as_floats(image: np.ndarray) -> Float[Tensor, "c h w"]:
    """Pixels ``[H, W, C]`` of any depth as numbers in [0, 1]."""
    values = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def drawn_places(count: int, batch_size: int, step: int, seed: int) -> Iterator[tuple[int, int]]:
    """The images of a step: for each its number since the first step, and its place.

    Images are shuffled anew for each pass; a pass goes on within a step.

    Args:
        count: of all images.
        batch_size: images per step.
        step: from 0.
        seed: of the order.
    """
    for drawn in range(step * batch_size, (step + 1) * batch_size):
        epoch, row = divmod(drawn, count)
        yield drawn, int(np.random.default_rng((seed, 0, epoch)).permutation(count)[row])


def is_flipped(drawn: int, seed: int) -> bool:
    """Whether an image is flipped from left to right, by its number since the first step."""
    return bool(np.random.default_rng((seed, 1, drawn)).integers(2))


def made_ahead(make: Callable[[int], Made], steps: range, workers: int) -> Iterator[Made]:
    """Yield what ``make`` returns for each step.

    Args:
        make: a pure function of the step.
        steps: numbers of the steps.
        workers: threads that make the next ones meanwhile; 0: this one, when it is needed.
    """
    if not workers:
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) > max(workers, _AHEAD):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()
