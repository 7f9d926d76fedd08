"""Linear support vector machines, one per class, for images with several labels: the protocol of VOC07."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_finite
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
PUBLISHED_COSTS = (*(10.0**power for power in range(-7, 3)), *(0.5**power for power in range(4, 20)))
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
SAMPLES = 5
_FOLDS = 3
_MAX_ITERATIONS = 2000
_METRICS = ("map", "map_11point", "map_interpolated")

Rows = Float[np.ndarray, "n d"]
Truth = Bool[np.ndarray, " n"]


def svm(
    train: Float[Tensor, "n d"],
    train_matrix: Bool[Tensor, "n c"],
    test: Float[Tensor, "m d"],
    test_matrix: Bool[Tensor, "m c"],
    *,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Train a linear SVM per class on frozen features, and compute the mean average precision.

    The protocol of Goyal et al. 2019 (arXiv 1905.01235, task of VOC07) with the values of its release: unit rows, squared
    hinge loss, L2 penalty, positives weighted 2 to 1, 2000 iterations, the cost of each class chosen by 3-fold
    cross-validation by average precision, then a fit on all of TRAIN. Different here: 5 costs instead of the 26 of the
    release (`PUBLISHED_COSTS`), folds shuffled by ``seed``, and the solver (primal or dual) that scikit-learn chooses for the
    shape. A class with a single positive cannot be cross-validated and takes the cost in the middle of the list.

    Works on the CPU in float64: 8 bytes per number of TRAIN and TEST, and 16 more per number of TRAIN while the solver runs.

    Args:
        train: embeddings to train on.
        train_matrix: the classes of each image.
        test: embeddings to test on.
        test_matrix: the classes of each image; the same columns.
        costs: the values of C to choose from.
        seed: for the folds and the solver.
        logger: receives progress.

    Returns:
        In percent ``map`` (area under the steps of precision and recall, as in scikit-learn); ``map_11point`` (mean of the
        best precision at recall 0, 0.1 ... 1: the rule of VOC07; Everingham et al. 2010, section 4.2); ``map_interpolated``
        (area under the best precision: what the release of Goyal et al. computes, and with it most papers); ``classes``, the
        number of classes they are means over; ``classes_left_out``, those that TRAIN or TEST has no image of, or no image
        without.

    Raises:
        UserError: NaN or infinity, or no class is left.
    """
    classes = _usable_classes(train_matrix, test_matrix)
    train_rows, test_rows = _unit(train, "TRAIN"), _unit(test, "TEST")
    logger = logger or NullLogger()
    figures, unfinished = [], 0
    for number in logger.progress(classes.tolist(), len(classes), "support vector machines"):
        truth = train_matrix[:, number].cpu().numpy()
        machine = _fit(train_rows, truth, _best_cost(train_rows, truth, costs, seed), seed)
        unfinished += int(machine.n_iter_ >= _MAX_ITERATIONS)
        figures.append(average_precisions(test_matrix[:, number].cpu().numpy(), machine.decision_function(test_rows)))
    if unfinished:
        logger.warning(
            f"{unfinished} of {len(classes)} support vector machines were stopped after {_MAX_ITERATIONS} iterations"
        )
    means = dict(zip(_METRICS, (100 * np.mean(figures, axis=0)).tolist(), strict=True))
    left_out = train_matrix.shape[1] - len(classes)
    return {**means, "classes": float(len(classes)), "classes_left_out": float(left_out)}


def low_shot(
    train: Float[Tensor, "n d"],
    train_matrix: Bool[Tensor, "n c"],
    test: Float[Tensor, "m d"],
    test_matrix: Bool[Tensor, "m c"],
    *,
    shots: Sequence[int] = SHOTS,
    samples: int = SAMPLES,
    cost: float = 1.0,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Train linear SVMs on k positives per class, and compute the mean average precision.

    Goyal et al. 2019 (arXiv 1905.01235, low-shot task of VOC07), as released: in each of 5 independent samples a class has k
    positives and, as negatives, k times as many as there are other classes (or all, if there are fewer); the test is on all
    of TEST. Different here: one cost for all, because the release takes for each k the cost that is best on the test images.
    The samples are a function of seed, k, sample and class.

    Args:
        train: embeddings to train on.
        train_matrix: the classes of each image.
        test: embeddings to test on.
        test_matrix: the classes of each image; the same columns.
        shots: the values of k.
        samples: number of samples for each k.
        cost: the value of C.
        seed: for the samples and the solver.
        logger: receives progress, and what is left out.

    Returns:
        For each k in percent ``k1_map`` and ``k1_map_std`` (over the samples, of the mean over classes), and ``k1_classes``,
        the number of classes with k positives: those with fewer are left out of that k, and a k that no class has is left out.

    Raises:
        UserError: NaN or infinity, or no class is left.
    """
    classes = _usable_classes(train_matrix, test_matrix)
    train_rows, test_rows = _unit(train, "TRAIN"), _unit(test, "TEST")
    logger = logger or NullLogger()
    result: dict[str, float] = {}
    positives = train_matrix.sum(dim=0).cpu().numpy()
    for k in logger.progress(shots, len(shots), "low-shot curves"):
        enough = classes[positives[classes] >= k]
        if len(enough) < len(classes):
            logger.info(
                f"k = {k}: {len(classes) - len(enough)} of {len(classes)} classes have fewer images and are left out"
            )
        figures = np.zeros((samples, len(enough)))
        for column, number in enumerate(enough.tolist()):
            truth, test_truth = (matrix[:, number].cpu().numpy() for matrix in (train_matrix, test_matrix))
            for sample in range(samples):
                rows = _sample(truth, k, max(1, train_matrix.shape[1] - 1) * k, [seed, k, sample, number])
                machine = _fit(train_rows[rows], truth[rows], cost, seed)
                figures[sample, column] = average_precision_score(test_truth, machine.decision_function(test_rows))
        if len(enough):
            means = 100 * figures.mean(axis=1)
            result |= {f"k{k}_map": float(means.mean()), f"k{k}_map_std": float(means.std())}
            result[f"k{k}_classes"] = float(len(enough))
    return result


def average_precisions(truth: Truth, scores: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Compute average precision by three rules: scikit-learn's, VOC07's, and interpolated; see :func:`svm`.

    Args:
        truth: whether each image is of the class.
        scores: for each image, higher for the class.

    Returns:
        Three values from 0 to 1.
    """
    precision, recall, _ = precision_recall_curve(
        truth, scores
    )  # recall decreases to 0, where precision is 1 by definition
    best = np.maximum.accumulate(precision[:-1])  # at this recall or more
    eleven = [best[recall[:-1] > tenth / 10 - 1e-9][-1] for tenth in range(11)]
    interpolated = float((best * -np.diff(recall)).sum())
    return float(average_precision_score(truth, scores)), float(np.mean(eleven)), interpolated


def _usable_classes(train_matrix: Bool[Tensor, "n c"], test_matrix: Bool[Tensor, "m c"]) -> Int[np.ndarray, " k"]:
    """The classes that some images have and some do not, in both."""
    both = [matrix.any(dim=0) & ~matrix.all(dim=0) for matrix in (train_matrix, test_matrix)]
    classes = (both[0] & both[1]).nonzero()[:, 0].cpu().numpy()
    if not len(classes):
        raise UserError(
            "no class has images with it and images without it, in both TRAIN and TEST, as an SVM needs; check that both "
            "sources have labels and name their classes alike"
        )
    return classes


def _unit(rows: Float[Tensor, "n d"], what: str) -> Rows:
    check_finite(rows, what)
    unit: Rows = F.normalize(rows.to("cpu", torch.float64), dim=1).numpy()
    return unit


def _fit(rows: Rows, truth: Truth, cost: float, seed: int) -> LinearSVC:
    check_interrupted()
    weights = {True: 2, False: 1}
    machine = LinearSVC(C=cost, class_weight=weights, dual="auto", max_iter=_MAX_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return machine.fit(rows, truth)


def _best_cost(rows: Rows, truth: Truth, costs: Sequence[float], seed: int) -> float:
    """The cost of the largest mean average precision over the folds; of equals the first."""
    folds = min(_FOLDS, int(truth.sum()), int((~truth).sum()))
    if folds < 2:
        return costs[len(costs) // 2]
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, truth))

    def score(cost: float) -> float:
        total = 0.0
        for train, held in splits:
            machine = _fit(rows[train], truth[train], cost, seed)
            total += average_precision_score(truth[held], machine.decision_function(rows[held]))
        return total

    return max(costs, key=score)


def _sample(truth: Truth, positives: int, negatives: int, seed: Sequence[int]) -> Int[np.ndarray, " k"]:
    """Positions of that many images of a class, and of that many others, or of all others if there are fewer."""
    generator = np.random.default_rng(seed)
    others = np.flatnonzero(~truth)
    drawn = [
        generator.choice(np.flatnonzero(truth), positives, replace=False),
        generator.choice(others, min(negatives, len(others)), replace=False),
    ]
    return np.concatenate(drawn)
