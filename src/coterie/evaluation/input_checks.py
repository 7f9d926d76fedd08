"""Checks of embeddings and labels before metrics are computed from them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.errors import UserError
from coterie.grouping.chunks import chunked
from coterie.logger import Logger


def check_finite(rows: Float[Tensor, "n d"], what: str) -> None:
    """Refuse embeddings with NaN or infinity: every metric computed from them would be wrong without notice.

    Args:
        rows: the embeddings, checked in chunks of bounded memory.
        what: what they are embeddings of, such as "TRAIN".

    Raises:
        UserError: how many of them are bad, and what to do.
    """
    if rows.sum().isfinite():  # fast, and true only if every number is finite
        return
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in chunked(rows, rows.shape[1]))
    if bad:  # the sum of finite numbers may be infinite
        raise UserError(
            f"NaN or infinity in {bad} of {len(rows)} embeddings of {what}: the weights or these images are broken; "
            "take an earlier checkpoint, or leave these images out"
        )


def warn_of_undecodable(bad: Sequence[tuple[int, str]], what: str, name: Callable[[int], str], logger: Logger) -> None:
    """Warn of images that cannot be decoded, if there are any.

    Args:
        bad: place and reason of each.
        what: which images they are, such as "labeled images".
        name: of the image at a place.
        logger: is warned.
    """
    if bad:
        place, reason = bad[0]
        logger.warning(f"{len(bad)} {what} cannot be decoded and are left out; the first, {name(place)}: {reason}")


def check_labels(labels: Int[Tensor, " n"], what: str) -> None:
    """Refuse an empty set, and missing labels (-1).

    Args:
        labels: of the images.
        what: which images they are, such as "TRAIN".

    Raises:
        UserError: what is missing, and what to do.
    """
    missing = int((labels < 0).sum())
    if missing or not len(labels):
        problem = f"{missing} of {len(labels)} images of {what} have no label" if missing else f"{what} has no images"
        raise UserError(f"{problem}: this probe needs labeled images; leave the others out")


def check_classes(train_labels: Int[Tensor, " n"], test_labels: Int[Tensor, " m"]) -> None:
    """Refuse labels that no classifier can be trained on, or that it could only predict wrongly.

    Args:
        train_labels: labels of the training images.
        test_labels: labels of the test images.

    Raises:
        UserError: missing labels, fewer than two classes in TRAIN, or classes of TEST that TRAIN does not have.
    """
    check_labels(train_labels, "TRAIN")
    check_labels(test_labels, "TEST")
    known = torch.unique(train_labels)
    if len(known) < 2:
        raise UserError("TRAIN has one class only: a classifier needs images of two classes or more")
    unknown = ~torch.isin(test_labels, known)
    if unknown.any():
        raise UserError(
            f"{int(unknown.sum())} images of TEST belong to classes that TRAIN has no image of: leave them out, or add "
            "images of these classes to TRAIN"
        )


def check_labeled_features(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
) -> None:
    """Refuse embeddings and labels that no classifier can be trained or tested on.

    Args:
        train: embeddings of the training images.
        train_labels: their labels.
        test: embeddings of the test images.
        test_labels: their labels.

    Raises:
        UserError: NaN or infinity, or as :func:`check_classes`.
    """
    check_classes(train_labels, test_labels)
    check_finite(train, "TRAIN")
    check_finite(test, "TEST")
