"""The retrieval probe: how high images of the same class rank, over the whole ranking.

Average precision is the mean, over the relevant images, of the precision at their positions in the whole ranking, without
interpolation, as in scikit-learn. Recall at k is that of metric learning (Oh Song et al. 2016, arXiv 1511.06452): the share of
queries with at least one image of their class among the k nearest, not the share of such images that is found. Of images with
equal similarity the irrelevant ones come first: uninformative features earn nothing, and the order of the gallery does not
matter.

Queries for whose class the gallery has no (other) image have nothing relevant to find: they are left out, and counted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_finite, check_labels
from coterie.grouping.chunks import chunked
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

RECALL_AT = (1, 5, 10)
_RANKING = 8  # a ranking takes up to about this many times the memory of its scores


def retrieval(
    gallery: Float[Tensor, "n d"],
    gallery_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m d"],
    query_labels: Int[Tensor, " m"],
    *,
    at: Sequence[int] = RECALL_AT,
    same: bool = False,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Compute mean average precision and recall at k of the gallery, ranked by cosine similarity for each query.

    The definitions are at the top of this module. Runs on the device of its inputs; beyond them and unit copies of both it
    holds a bounded number of scores at a time, and at least one ranking.

    Args:
        gallery: embeddings to be ranked.
        gallery_labels: their classes.
        queries: embeddings to rank them for.
        query_labels: their classes.
        at: the values of k.
        same: the queries are the gallery, in the same order: each is left out of its own ranking. Always so if both are one
            tensor.
        logger: receives progress.

    Returns:
        ``map`` and ``recall_at_1`` ... in percent, and ``queries_left_out``, a number of queries.

    Raises:
        UserError: NaN or infinity, missing labels, or no query has anything relevant to find.
    """
    same = same or queries is gallery
    if same and len(queries) != len(gallery):
        raise ValueError(f"{len(queries)} queries cannot be the same as {len(gallery)} images of the gallery")
    for rows, labels, what in ((gallery, gallery_labels, "TRAIN"), (queries, query_labels, "TEST")):
        check_labels(labels, what)
        check_finite(rows, what)
    counts = torch.bincount(gallery_labels, minlength=int(query_labels.max()) + 1)
    kept = query_labels.argsort(stable=True)  # one class after the other
    kept = kept[counts[query_labels[kept]] > int(same)]
    if not len(kept):
        raise UserError(
            "no query has another image of its class to find: retrieval needs classes of two images or more"
        )
    gallery = F.normalize(gallery, dim=1)
    parts = chunked(F.normalize(queries[kept], dim=1), _RANKING * len(gallery))
    positions = torch.split(kept, [len(part) for part in parts])
    relevant = torch.split(gallery_labels.argsort(stable=True), counts.tolist())
    sums = torch.zeros(1 + len(at), dtype=torch.float64, device=gallery.device)
    pairs = zip(parts, positions, strict=True)
    for part, position in (logger or NullLogger()).progress(pairs, len(parts), "retrieval"):
        check_interrupted()
        similarities = part @ gallery.T
        if same:
            similarities.scatter_(1, position[:, None], -torch.inf)
        for precision, before in _by_class(similarities, query_labels[position], relevant):
            sums += torch.stack([precision.sum(), *((before < k).sum() for k in at)])
    mean, *recalls = (100 * sums / len(kept)).tolist()
    recall = {f"recall_at_{k}": value for k, value in zip(at, recalls, strict=True)}
    return {"map": mean, **recall, "queries_left_out": float(len(query_labels) - len(kept))}


def _by_class(
    similarities: Float[Tensor, "q n"], labels: Int[Tensor, " q"], relevant: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """:func:`_rank` for the queries of each class; queries of one class are adjacent."""
    numbers, sizes = torch.unique_consecutive(labels, return_counts=True)
    for number, some in zip(numbers.tolist(), torch.split(similarities, sizes.tolist()), strict=True):
        yield _rank(some, relevant[number])


def _rank(
    similarities: Float[Tensor, "q n"], relevant: Int[Tensor, " r"]
) -> tuple[Float[Tensor, " q"], Int[Tensor, " q"]]:
    """The average precision of each ranking, and the number of irrelevant images before its first relevant one.

    A similarity of minus infinity marks an image that is not in the ranking.
    """
    right, ranking = _ascending(similarities[:, relevant]), _ascending(similarities)
    # How many images are at least as near as each relevant one, and how many of those are relevant themselves.
    all_places = similarities.shape[1] - torch.searchsorted(ranking, right)
    right_places = len(relevant) - torch.searchsorted(right, right)
    ranked = ~right.isneginf()
    precision = (right_places / all_places.double()).masked_fill(~ranked, 0)
    return precision.sum(dim=1) / ranked.sum(dim=1), (all_places - right_places)[:, -1]


def _ascending(rows: Float[Tensor, "q n"]) -> Float[Tensor, "q n"]:
    """Sort each row; on the CPU with NumPy, which is four times as fast if positions are not needed."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.device.type == "cpu" else rows.sort(dim=1).values
