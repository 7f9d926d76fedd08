"""The k-nearest-neighbor probe."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.evaluation.input_checks import check_finite, check_labels
from coterie.evaluation.neighbors import nearest, vote
from coterie.grouping.chunks import chunked

K_VALUES = (1, 20, 200)
TEMPERATURES = (0.07, 0.1)


def knn(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    neighbors: Sequence[int] = K_VALUES,
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[str, float]:
    """Classify by a weighted vote of the nearest training rows, and measure the accuracy.

    Cosine similarity; each of the k neighbors votes with ``exp(cosine / temperature)`` (Wu et al. 2018, section 3.4; the
    protocol of DINO, and of SwAV's appendix B.6). Runs on the device of its inputs; beyond them and a copy of the training
    rows, it holds a bounded number of scores and votes at a time.

    Args:
        train: embeddings of the training images.
        train_labels: their classes, from 0.
        test: embeddings of the test images.
        test_labels: their classes, from 0.
        neighbors: the values of k.
        temperatures: of the weights of the vote.

    Returns:
        ``{"k20_t0.07_top1": ..., "k20_t0.07_top5": ..., ...}`` in percent; top5 considers the best min(5, k) classes.

    Raises:
        UserError: NaN or infinity, or missing labels.
    """
    for rows, labels, what in ((train, train_labels, "TRAIN"), (test, test_labels, "TEST")):
        check_labels(labels, what)
        check_finite(rows, what)
    train = F.normalize(train, dim=1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    hits = {(k, t): torch.zeros(2, dtype=torch.int64, device=train.device) for k in neighbors for t in temperatures}
    parts = chunked(test, max(len(train), classes))
    space = train.new_empty(len(parts[0]), len(train))
    for part, truth in zip(parts, torch.split(test_labels, [len(part) for part in parts]), strict=True):
        similarities, positions = nearest(F.normalize(part, dim=1), train, max(neighbors), space=space)
        labels = train_labels[positions]
        for (k, temperature), count in hits.items():
            votes = vote(similarities[:, :k], labels[:, :k], classes, temperature)
            right = votes.topk(min(5, k, classes), dim=1).indices == truth[:, None]
            count += torch.stack([right[:, 0].sum(), right.any(dim=1).sum()])
    result: dict[str, float] = {}
    for (k, temperature), count in hits.items():
        top1, top5 = (100 * count.double() / len(test)).tolist()
        result |= {f"k{k}_t{temperature:g}_top1": top1, f"k{k}_t{temperature:g}_top5": top5}
    return result


def knn_predictions(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Int[Tensor, " m"]:
    """Predict the class of each test row by the vote of its k nearest training rows, as in :func:`knn`.

    Args:
        train: embeddings of the training images.
        train_labels: their classes, from 0.
        test: embeddings of the images to classify.
        k: number of neighbors.
        temperature: of the weights of the vote.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    similarities, positions = nearest(test, train, k)
    classes = int(train_labels.max()) + 1
    return vote(similarities, train_labels[positions], classes, temperature).argmax(dim=1)
