"""What every probe asks of the embeddings that it is given."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coterie.errors import UserError
from coterie.grouping.chunks import chunked


def check_finite(rows: Float[Tensor, "n d"], what: str) -> None:
    """Refuse embeddings with NaN or infinity: every figure made of them would be wrong without saying so.

    Args:
        rows: the embeddings; looked at in parts of bounded memory.
        what: whose they are, such as "TRAIN".

    Raises:
        UserError: how many of them are bad, and what to do.
    """
    if rows.sum().isfinite():  # quick, and true only if every number is finite
        return
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in chunked(rows, rows.shape[1]))
    if bad:  # finite numbers may have an infinite sum
        raise UserError(
            f"NaN or infinity in {bad} of {len(rows)} embeddings of {what}: the weights or these images are broken; "
            "take an earlier checkpoint, or leave these images out"
        )


def check_labels(labels: Int[Tensor, " n"], what: str) -> None:
    """Refuse an empty set, and labels of -1, which mean that there is none.

    Raises:
        UserError: what is missing, and what to do.
    """
    missing = int((labels < 0).sum())
    if missing or not len(labels):
        said = f"{missing} of {len(labels)} images of {what} have no label" if missing else f"{what} has no images"
        raise UserError(f"{said}: this probe needs labeled images; leave the others out")


def check_labeled_features(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
) -> None:
    """Refuse what no classifier can be learned from, or what it could only get wrong.

    Raises:
        UserError: NaN, missing labels, fewer than two classes in TRAIN, or classes of TEST that TRAIN has not.
    """
    check_classes(train_labels, test_labels)
    check_finite(train, "TRAIN")
    check_finite(test, "TEST")


def check_classes(train_labels: Int[Tensor, " n"], test_labels: Int[Tensor, " m"]) -> None:
    """Refuse labels that no classifier can be learned from, or that it could only get wrong.

    Raises:
        UserError: missing labels, fewer than two classes in TRAIN, or classes of TEST that TRAIN has not.
    """
    check_labels(train_labels, "TRAIN")
    check_labels(test_labels, "TEST")
    known = torch.unique(train_labels)
    if len(known) < 2:
        raise UserError("TRAIN has one class only: a classifier needs images of two classes or more")
    strange = ~torch.isin(test_labels, known)
    if strange.any():
        raise UserError(
            f"{int(strange.sum())} images of TEST belong to classes that TRAIN has no image of: leave them out, or add "
            "images of these classes to TRAIN"
        )


def held_out(labels: Int[Tensor, " n"], *, share: float = 0.2, seed: int = 0) -> Bool[Tensor, " n"]:
    """Which rows to keep apart from the training to choose a setting: the same share of each class, drawn by the seed.

    At least one row of each class is learned from, and one held out if there are two or more. The draw is the same on every
    device.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # class by class, each shuffled
    counts = labels.bincount()
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    wanted = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    held[order] = place < wanted[labels[order]]
    return held


def accuracies(first: Bool[Tensor, " n"], among_five: Bool[Tensor, " n"], truth: Int[Tensor, " n"]) -> dict[str, float]:
    """``top1``, ``top5`` and ``mean_per_class``, over the classes that are there, in percent.

    Args:
        first: whether the best answer for each row is right.
        among_five: whether one of the best five is.
        truth: the class of each row.
    """
    seen = truth.bincount()
    shares = truth[first].bincount(minlength=len(seen)).double()[seen > 0] / seen[seen > 0]
    top1, top5 = (100 * float(each.double().mean()) for each in (first, among_five))
    return {"top1": top1, "top5": top5, "mean_per_class": 100 * float(shares.mean())}
