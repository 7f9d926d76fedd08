"""The cluster probe: whether groups are classes, for the run's own groups and for k-means on the features."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_labeled_features, check_labels
from coterie.grouping.chunks import chunked
from coterie.grouping.kmeans import nearest_centers, random_starts, spherical_kmeans
from coterie.grouping.loss import cosine_scores
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

KMEANS_STARTS = 8
START_ITERATIONS = 10  # of each start
FINAL_ITERATIONS = 20  # more, of the best start


def cluster_figures(labels: Int[Tensor, " n"], groups: Int[Tensor, " n"]) -> dict[str, float]:
    """Measure how well groups agree with classes.

    Images without a group (-1) are left out of every metric, and counted: metrics of groups that contain few of the images
    flatter. NMI is normalized by the arithmetic mean of both entropies (Vinh et al. 2010; scikit-learn's default) and, like
    purity, grows with the number of groups; ARI (Hubert & Arabie 1985) is 0 for random groups.

    Args:
        labels: the class of each image, from 0.
        groups: the group of each image; -1: none.

    Returns:
        ``nmi`` (0 to 1); ``ari`` (at most 1); in percent ``hungarian_accuracy``, for the assignment of one group to each class
        that makes the most images right (Kuhn 1955; images of unassigned groups are wrong), and ``purity``, where each group
        counts as its most frequent class; ``ungrouped``, the number of images left out.

    Raises:
        UserError: no image, one without a label, or none with a group.
    """
    # Here, because these take a second to import and few commands need them
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    check_labels(labels, "TEST")
    grouped = groups >= 0
    if not grouped.any():
        raise UserError(
            "not one image has a group, so there is nothing to compare with the classes: assign groups first"
        )
    truth, found = labels[grouped].cpu().numpy(), groups[grouped].cpu().numpy()
    counts = contingency_matrix(truth, found)  # [classes, groups] that occur
    pairs = linear_sum_assignment(counts, maximize=True)
    return {
        "nmi": float(normalized_mutual_info_score(truth, found)),
        "ari": float(adjusted_rand_score(truth, found)),
        "hungarian_accuracy": float(100 * counts[pairs].sum() / len(truth)),
        "purity": float(100 * counts.max(axis=0).sum() / len(truth)),
        "ungrouped": float(np.count_nonzero(~grouped.cpu().numpy())),
    }


def clusters(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    groups: Int[Tensor, " m"] | None = None,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Compute :func:`cluster_figures` of the test images, for the run's own groups and for k-means on the features.

    K-means is spherical (Dhillon & Modha 2001), on unit rows, with as many clusters as TRAIN has classes, fitted on TRAIN and
    tested on TEST. Of `KMEANS_STARTS` seeded starts with `START_ITERATIONS` iterations each, the one with the largest mean
    cosine between rows and centers is continued for `FINAL_ITERATIONS` more: labels provide nothing but the number of
    clusters. Runs on the device of its inputs; beyond them it holds unit copies of both and a bounded number of scores.

    Args:
        train: embeddings to fit on.
        train_labels: their classes.
        test: embeddings to test on.
        test_labels: their classes.
        groups: the run's own group of each test image, -1 for none; None: the run has no groups.
        seed: for the starts of k-means.
        logger: receives progress.

    Returns:
        ``groups_nmi`` ... ``groups_ungrouped`` (with ``groups``), and ``kmeans_nmi`` ... ``kmeans_purity``.

    Raises:
        UserError: NaN or infinity, missing labels, one class only, or classes of TEST that TRAIN does not have.
    """
    check_labeled_features(train, train_labels, test, test_labels)
    result: dict[str, float] = {}
    if groups is not None:
        result |= {f"groups_{name}": value for name, value in cluster_figures(test_labels, groups).items()}
    centers = _centers(
        F.normalize(train, dim=1), int((torch.bincount(train_labels) > 0).sum()), seed, logger or NullLogger()
    )
    figures = cluster_figures(test_labels, nearest_centers(F.normalize(test, dim=1), centers))
    del figures["ungrouped"]
    return result | {f"kmeans_{name}": value for name, value in figures.items()}


def _centers(rows: Float[Tensor, "n d"], count: int, seed: int, logger: Logger) -> Float[Tensor, "k d"]:
    """The best of several k-means, by the mean cosine between unit rows and their centers."""
    best, largest = rows[:count], -torch.inf
    for start in logger.progress(range(KMEANS_STARTS), KMEANS_STARTS, "k-means"):
        check_interrupted()
        positions = random_starts(len(rows), count, seed, step=start, head=0)
        centers = spherical_kmeans(rows, rows[positions.to(rows.device)], START_ITERATIONS)
        cosines = [cosine_scores(part, centers).amax(dim=1).sum(dtype=torch.float64) for part in chunked(rows, count)]
        if (total := float(torch.stack(cosines).sum())) > largest:
            best, largest = centers, total
    return spherical_kmeans(rows, best, FINAL_ITERATIONS)
