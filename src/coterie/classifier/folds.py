"""Which labeled images are held out when: so that every choice is made on images that were not trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

FOLDS = 5
CROSS_VALIDATED = 10_000
"""Up to so many labeled images each is held out once, in five parts; of more, one random fifth is held out once."""


def folds(
    classes: Int[np.ndarray, " n"],
    same: Sequence[str] | None = None,
    *,
    count: int = FOLDS,
    most: int = CROSS_VALIDATED,
    seed: int = 0,
) -> Int[Tensor, " n"]:
    """Divide images into parts with about equally many of each class.

    Every class with two different images or more has one to train on, whichever part is held out. Copies of an image are in
    the same part: none is tested on what it was trained on.

    Args:
        classes: the class of each image, from 0; of images with several labels, any of them.
        same: what identifies the content of each image; None: all differ.
        count: number of parts.
        most: of more images, only the first part is held out.
        seed: for the choice.

    Returns:
        The part of each image; -1: it is always trained on, as is the only image of a class.
    """
    keys = np.arange(len(classes)) if same is None else np.unique(np.asarray(same, dtype=str), return_inverse=True)[1]
    order = np.random.Generator(np.random.Philox(key=[seed, len(classes)])).permutation(len(classes))
    place: dict[int, int] = {}  # of each content
    taken: dict[int, int] = {}  # contents of each class
    for position in order.tolist():
        key, number = int(keys[position]), int(classes[position])
        if key not in place:
            place[key] = (taken.get(number, 0) + number) % count  # classes begin at different parts, which stay even
            taken[number] = taken.get(number, 0) + 1
    found = np.array([place[int(key)] for key in keys], dtype=np.int64)
    single = np.array([taken.get(int(each), 0) < 2 for each in classes])
    found[single] = -1
    if len(classes) > most:
        found[found != 0] = -1
    return torch.from_numpy(found)
