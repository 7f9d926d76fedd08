"""How well a class that a classifier was never shown is told from those that it knows."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.classifier.calibration import unknown_threshold
from coterie.classifier.choose_head import logits_of
from coterie.classifier.heads import probabilities
from coterie.classifier.knn_candidates import KnnCandidates
from coterie.classifier.linear_candidates import LinearCandidates
from coterie.data.sources.source import random_positions
from coterie.evaluation.classification import Share
from coterie.evaluation.classifier_figures import UnknownFound
from coterie.logger import Logger
from coterie.signals import check_interrupted

LEFT_OUT = 10
"""Classes that are left out of training, one after another, at most."""


def unknown_found(
    fit: LinearCandidates | KnnCandidates,
    name: str,
    rows: Float[Tensor, "n d"],
    truth: Int[Tensor, " n"],
    parts: Int[Tensor, " n"],
    classes: Sequence[str],
    temperature: float,
    logger: Logger,
    *,
    shift: Float[Tensor, " c"] | None = None,
) -> tuple[UnknownFound, ...]:
    """Leave classes out of training one by one, and count how many of their images are then below the threshold.

    The threshold is what 95 % of held-out images of the other classes reach.

    Args:
        fit: fits heads.
        name: of the candidate.
        rows: features of the labeled images.
        truth: their classes.
        parts: those in the first part are held out.
        classes: names of the classes; of many, some are drawn.
        temperature: of the logits.
        logger: receives progress.
        shift: what is added to the logits of all classes; None: nothing.

    Returns:
        Nothing if there are fewer than three classes, or no image is held out.
    """
    out = parts == 0
    if len(classes) < 3 or not out.any():
        return ()
    smaller, found = replace(fit, classes=len(classes) - 1), []
    drawn = random_positions(LEFT_OUT, len(classes)).tolist()
    for number in logger.progress(drawn, len(drawn), "leaving out a class"):
        check_interrupted()
        other = truth != number
        known = other & out
        if not known.any():
            continue
        shifted = truth - (truth > number).long()  # without a gap
        head = smaller(rows[other & ~out], shifted[other & ~out], only=name)[name]
        added = 0.0 if shift is None else torch.cat([shift[:number], shift[number + 1 :]])
        of_known, of_class = (
            probabilities(logits_of(head, rows[these]) + added, temperature).amax(dim=1) for these in (known, ~other)
        )
        low = of_class.double() < unknown_threshold(of_known)
        found.append(UnknownFound(classes[number], Share(int(low.sum()), len(low))))
    return tuple(found)
