"""The retrieval probe: how near images of the same class are, over the whole ranking.

Average precision is the mean, over the right answers, of the precision at their places in the whole ranking, without
interpolation, as scikit-learn's. Recall at k is that of metric learning (Oh Song et al. 2016, arXiv 1511.06452): the
share of queries with at least one image of their class among the k nearest; it is not the share of such images that is
found. Where images are equally near, the wrong ones come first: features that say nothing earn nothing, and the order of
the gallery does not matter.

Queries of whose class the gallery has no (other) image have no right answer: they are left out, and counted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.probes.checks import check_finite, check_labels
from coterie.grouping.chunks import chunked
from coterie.logger import Logger, NullLogger

AT = (1, 5, 10)
_RANKING = 8  # a ranking takes at most about so many times the room of its scores


def retrieval(
    gallery: Float[Tensor, "n d"],
    gallery_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m d"],
    query_labels: Int[Tensor, " m"],
    *,
    at: Sequence[int] = AT,
    same: bool = False,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Mean average precision and recall at k, in percent, of the gallery ranked by cosine for each query.

    The definitions stand at the head of this module. Runs on the device of its inputs; beside them and unit copies of both
    it holds a bounded number of scores at a time, and at least one ranking.

    Args:
        gallery: embeddings to be ranked.
        gallery_labels: their classes.
        queries: embeddings to rank them for.
        query_labels: their classes.
        at: the values of k.
        same: the queries are the gallery, in the same order: each is left out of its own ranking. So they are, whatever is
            said here, if both are one tensor.
        logger: hears of the progress.

    Returns:
        ``map``, ``recall_at_1`` ..., and ``queries_left_out``, a number of queries.

    Raises:
        UserError: NaN, missing labels, or no query with a right answer.
    """
    same = same or queries is gallery
    if same and len(queries) != len(gallery):
        raise ValueError(f"{len(queries)} queries cannot be the same as {len(gallery)} images of the gallery")
    for rows, labels, what in ((gallery, gallery_labels, "TRAIN"), (queries, query_labels, "TEST")):
        check_labels(labels, what)
        check_finite(rows, what)
    counts = torch.bincount(gallery_labels, minlength=int(query_labels.max()) + 1)
    asked = query_labels.argsort(stable=True)  # a class at a time
    asked = asked[counts[query_labels[asked]] > int(same)]
    if not len(asked):
        raise UserError(
            "no query has another image of its class to find: retrieval needs classes of two images or more"
        )
    gallery = F.normalize(gallery, dim=1)
    parts = chunked(F.normalize(queries[asked], dim=1), _RANKING * len(gallery))
    places = torch.split(asked, [len(part) for part in parts])
    members = torch.split(gallery_labels.argsort(stable=True), counts.tolist())
    sums = torch.zeros(1 + len(at), dtype=torch.float64, device=gallery.device)
    pairs = zip(parts, places, strict=True)
    for part, place in (logger or NullLogger()).progress(pairs, len(parts), "retrieval"):
        similarities = part @ gallery.T
        if same:
            similarities.scatter_(1, place[:, None], -torch.inf)
        for precision, before in _judged(similarities, query_labels[place], members):
            sums += torch.stack([precision.sum(), *((before < k).sum() for k in at)])
    mean, *recalls = (100 * sums / len(asked)).tolist()
    recall = {f"recall_at_{k}": value for k, value in zip(at, recalls, strict=True)}
    return {"map": mean, **recall, "queries_left_out": float(len(query_labels) - len(asked))}


def _judged(
    similarities: Float[Tensor, "q n"], labels: Int[Tensor, " q"], members: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `_ranked` says of queries that stand class by class."""
    numbers, sizes = torch.unique_consecutive(labels, return_counts=True)
    for number, some in zip(numbers.tolist(), torch.split(similarities, sizes.tolist()), strict=True):
        yield _ranked(some, members[number])


def _ranked(
    similarities: Float[Tensor, "q n"], members: Int[Tensor, " r"]
) -> tuple[Float[Tensor, " q"], Int[Tensor, " q"]]:
    """The average precision of each ranking, and the number of wrong images before its first right one.

    A similarity of minus infinity is no answer.
    """
    right, ranking = _rising(similarities[:, members]), _rising(similarities)
    # How many images are at least as near as each right answer, and how many of those are right themselves.
    all_places = similarities.shape[1] - torch.searchsorted(ranking, right)
    right_places = len(members) - torch.searchsorted(right, right)
    answers = ~right.isneginf()
    precision = (right_places / all_places.double()).masked_fill(~answers, 0)
    return precision.sum(dim=1) / answers.sum(dim=1), (all_places - right_places)[:, -1]


def _rising(rows: Float[Tensor, "q n"]) -> Float[Tensor, "q n"]:
    """Each row sorted; on the CPU by NumPy, which is four times as fast where nobody asks for the positions."""
    return torch.from_numpy(np.sort(rows.numpy(), axis=1)) if rows.device.type == "cpu" else rows.sort(dim=1).values
