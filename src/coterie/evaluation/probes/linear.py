"""The linear probe: how well a linear classifier of frozen features does."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.errors import UserError
from coterie.evaluation.probes.checks import accuracies, check_labeled_features, held_out
from coterie.evaluation.probes.logistic_regression import (
    LinearClassifier,
    Preconditioner,
    logistic_regression,
    loss_and_gradient,
)
from coterie.evaluation.probes.standardize import Standardizer
from coterie.grouping.chunks import chunk_slices
from coterie.logger import Logger, NullLogger

PENALTIES = (1e4, 1e3, 1e2, 1e1, 1.0)
"""Of the sum of the losses, so that they suit any number of images: 1 / C of scikit-learn."""
SWEEP_TOLERANCE = 1e-2  # the norm of the gradient at which one penalty is known from another
TOLERANCE = 1e-3  # where it ends; scikit-learn's default stops earlier

LEARNING_RATE, EPOCHS, BATCH_SIZE, MOMENTUM, WEIGHT_DECAY, START = 0.3, 100, 256, 0.9, 1e-6, 0.01
"""SwAV's protocol (Caron et al. 2020, appendix A.3); START is the deviation of the first weights."""


def linear(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Accuracy, in percent, of multinomial logistic regression on standardized features: the fast default.

    Features get mean 0 and deviation 1 by the training rows' statistics. A fifth of each class of TRAIN is held out and all
    penalties are fitted at once to the rest. The one that is right most often on what was held out, of equals the strongest,
    is fitted to the whole of TRAIN; TEST is only asked. So did CLIP (Radford et al. 2021, appendix A.3).

    Why a sweep of penalties and not of learning rates: with SGD the learning rate times the number of steps decides how far
    the weights get, which is to say how much they are penalized, and the best one depends on the batch, the length and the
    scale of the features. The penalty is that same choice without the rest. The fit to it is exact, the same for everybody,
    agrees with scikit-learn's, and takes half the time of a sweep of five learning rates over ten epochs
    (``benchmarks/linear_probe.py``), for which see :func:`linear_sgd`.

    Runs on the device of its inputs; beside them it holds a bounded number of rows and scores.

    Returns:
        ``top1``, ``top5`` (of at most the number of classes), ``mean_per_class`` (over the classes of TEST), ``penalty``,
        and ``held_out_top1``, the chosen one's. If each class has one image only, nothing can be held out: the penalty is
        the middle one of the list, and ``held_out_top1`` is not there.

    Raises:
        UserError: NaN, missing labels, one class only, or classes of TEST that TRAIN has not.
    """
    check_labeled_features(train, train_labels, test, test_labels)
    known, numbers = torch.unique(train_labels, return_inverse=True)
    standard = Standardizer.fit(train)
    fit = partial(
        logistic_regression,
        train,
        numbers,
        len(known),
        standard=standard,
        curvature=Preconditioner.fit(train, standard),
        logger=logger,
    )
    strengths = torch.tensor(sorted(penalties, reverse=True), dtype=standard.mean.dtype, device=train.device)
    best, said, start = len(strengths) // 2, dict[str, float](), None
    held = held_out(numbers, seed=seed)
    if held.any() and len(strengths) > 1:
        what = f"linear probe, {len(strengths)} penalties"
        swept = fit(penalties=strengths, index=(~held).nonzero()[:, 0], tolerance=SWEEP_TOLERANCE, what=what)
        best, said = _best(swept.before(standard), train, numbers, held)
        start = swept.head(best)
    model = fit(penalties=strengths[best : best + 1], start=start, tolerance=TOLERANCE, what="linear probe")
    figures = _figures(model.before(standard), test, torch.searchsorted(known, test_labels))
    return figures | {"penalty": float(strengths[best])} | said


def linear_published(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Accuracy, in percent, of a linear layer trained by SwAV's published protocol (Caron et al. 2020, appendix A.3).

    SGD with momentum 0.9 and weight decay 1e-6 for 100 epochs in batches of 256; the learning rate begins at 0.3 and falls
    by a cosine, epoch by epoch, to 0; weights start from N(0, 0.01), the bias from 0; features are taken as they are. It
    works on embeddings that were made once, of images cut from the middle: the original cuts and flips each image anew in
    each epoch. The figure is the last epoch's; the original reports the best one, which is chosen on the test images.

    Returns and raises as :func:`linear_sgd` does.
    """
    return linear_sgd(train, train_labels, test, test_labels, seed=seed, logger=logger)


def linear_sgd(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    learning_rates: Sequence[float] = (LEARNING_RATE,),
    epochs: int = EPOCHS,
    standardize: bool = False,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """:func:`linear_published` with other learning rates or another length.

    Several learning rates are trained at once, on the same batches, with a fifth of each class of TRAIN held out; the one
    that is right most often there is then trained on the whole of TRAIN. The seed decides the start, the order and what is
    held out.

    ``standardize`` brings the features to mean 0 and deviation 1 first, by the training rows' statistics.

    Returns:
        ``top1``, ``top5``, ``mean_per_class`` as :func:`linear`, ``learning_rate``, and ``held_out_top1`` where it was chosen.

    Raises:
        UserError: as :func:`linear`; also when SGD diverges, or when no class has an image to spare for the choice.
    """
    check_labeled_features(train, train_labels, test, test_labels)
    known, numbers = torch.unique(train_labels, return_inverse=True)
    standard = Standardizer.fit(train) if standardize else Standardizer.identity(train)
    fit = partial(_sgd, train, numbers, len(known), standard=standard, epochs=epochs, seed=seed, logger=logger)
    best, said = 0, dict[str, float]()
    if len(learning_rates) > 1:
        held = held_out(numbers, seed=seed)
        if not held.any():
            raise UserError(
                "no class of TRAIN has two images, so no learning rate can be chosen: give one, or more images"
            )
        swept = fit(rates=learning_rates, index=(~held).nonzero()[:, 0])
        best, said = _best(swept, train, numbers, held)
    model = fit(rates=learning_rates[best : best + 1], index=torch.arange(len(train), device=train.device))
    rate = learning_rates[best]
    if not (model.weights.isfinite().all() and model.bias.isfinite().all()):
        raise UserError(f"SGD diverges on these embeddings at a learning rate of {rate:g}: use the probe `linear`")
    return _figures(model, test, torch.searchsorted(known, test_labels)) | {"learning_rate": rate} | said


def _sgd(
    rows: Tensor,
    labels: Tensor,
    classes: int,
    rates: Sequence[float],
    *,
    standard: Standardizer,
    index: Tensor,
    epochs: int,
    seed: int,
    logger: Logger | None,
) -> LinearClassifier:
    """One head for each learning rate, trained on the rows of the index; all start alike and see the same batches."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers on every device
    first = START * torch.randn(classes, 1, rows.shape[1], generator=generator, dtype=torch.float64)
    weights = first.to(standard.mean).repeat(1, len(rates), 1)
    model = LinearClassifier(weights, weights.new_zeros(classes, len(rates)))
    speed = LinearClassifier(torch.zeros_like(model.weights), torch.zeros_like(model.bias))
    peaks = torch.tensor(rates).to(standard.mean)
    what = f"linear probe by SGD, {len(rates)} learning rates" if len(rates) > 1 else "linear probe by SGD"
    for epoch in (logger or NullLogger()).progress(range(epochs), epochs, what):
        rate = peaks * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = index[torch.randperm(len(index), generator=generator).to(rows.device)]
        for batch in torch.split(order, BATCH_SIZE):
            _, slope = loss_and_gradient(model, standard(rows[batch]), labels[batch])
            for value, moving, change, step in (
                (model.weights, speed.weights, slope.weights, rate[:, None]),
                (model.bias, speed.bias, slope.bias, rate),
            ):
                moving.mul_(MOMENTUM).add_(change, alpha=1 / len(batch)).add_(value, alpha=WEIGHT_DECAY)
                value.sub_(step * moving)
    return model.before(standard)


def _right(model: LinearClassifier, rows: Tensor, truth: Tensor, index: Tensor | None = None) -> Tensor:
    """Whether the best class, and whether one of the best five, is the true one: [2 l n]."""
    found = []
    for part in chunk_slices(
        len(truth if index is None else index), max(rows.shape[1], model.bias.numel()), rows.device
    ):
        these = part if index is None else index[part]
        scores = model.scores(rows[these])
        right = scores.topk(min(5, len(scores)), dim=0).indices == truth[these]
        found.append(torch.stack([right[0], right.any(dim=0)]))
    return torch.cat(found, dim=2)


def _best(model: LinearClassifier, rows: Tensor, truth: Tensor, held: Tensor) -> tuple[int, dict[str, float]]:
    """The head that is right most often on the rows that were held out, the first of equals; and how often, in percent."""
    hits = _right(model, rows, truth, held.nonzero()[:, 0])[0].sum(dim=1)
    broken = ~model.weights.isfinite().all(dim=2).all(dim=0)
    best = int(hits.masked_fill(broken, -1).argmax())
    return best, {"held_out_top1": 100 * int(hits[best]) / int(held.sum())}


def _figures(model: LinearClassifier, rows: Tensor, truth: Tensor) -> dict[str, float]:
    """Accuracies of the only head, in percent."""
    first, among_five = _right(model, rows, truth)[:, 0]
    return accuracies(first, among_five, truth)
