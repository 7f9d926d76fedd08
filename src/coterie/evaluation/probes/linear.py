"""The linear probe: the accuracy of a linear classifier on frozen features."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from coterie.errors import UserError
from coterie.evaluation.input_checks import check_labeled_features
from coterie.evaluation.probes.accuracy import accuracies
from coterie.evaluation.probes.logistic_regression import (
    LinearClassifier,
    Preconditioner,
    logistic_regression,
    loss_and_gradient,
)
from coterie.evaluation.probes.recipe import LINEAR_RECIPE, Recipe
from coterie.evaluation.probes.standardize import Standardizer
from coterie.grouping.chunks import chunk_slices
from coterie.logger import Logger, NullLogger
from coterie.signals import check_interrupted

PENALTIES = (1e4, 1e3, 1e2, 1e1, 1.0)
"""For the sum of the losses, so that they suit any number of images: 1 / C of scikit-learn."""
SWEEP_TOLERANCE = 1e-2  # the norm of the gradient that suffices to compare penalties
FINAL_TOLERANCE = 1e-3  # the norm of the gradient at the end; scikit-learn's default stops earlier

SGD_MOMENTUM, SGD_INITIAL_STD = 0.9, 0.01
"""SwAV's protocol (Caron et al. 2020, appendix A.3); the last is the standard deviation of the initial weights."""


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
    """Fit multinomial logistic regression to standardized features, and measure its accuracy: the fast default.

    Features are standardized by the statistics of TRAIN. A fifth of each class of TRAIN is held out, and all penalties are
    fitted at once to the rest. The penalty with the highest accuracy on the held-out rows, of equals the strongest, is then
    fitted to all of TRAIN; TEST is only tested on. CLIP does the same (Radford et al. 2021, appendix A.3).

    Why a sweep of penalties and not of learning rates (:func:`linear_sgd`): with SGD, the learning rate times the number of
    steps determines how far the weights get, that is, how much they are penalized, and the best one depends on batch size,
    epochs and the scale of the features. The penalty is the same choice without the rest. Its fit is exact, agrees with
    scikit-learn's, and takes half the time of five learning rates over ten epochs (``benchmarks/linear_probe.py``).

    Runs on the device of its inputs; beyond them it holds a bounded number of rows and scores.

    Args:
        train: features to train on.
        train_labels: their classes.
        test: features to test on.
        test_labels: their classes.
        penalties: strengths of the L2 penalty to choose from.
        seed: for the held-out rows.
        logger: receives progress.

    Returns:
        In percent ``top1``, ``top5`` (of at most the number of classes) and ``mean_per_class`` (over the classes of TEST);
        ``penalty``, and its ``held_out_top1``; if each class has a single image, the middle penalty, without the latter.

    Raises:
        UserError: NaN or infinity, missing labels, one class only, or classes of TEST that TRAIN does not have.
    """
    check_labeled_features(train, train_labels, test, test_labels)
    known, numbers = torch.unique(train_labels, return_inverse=True)
    standardizer = Standardizer.fit(train)
    fit = partial(logistic_regression, train, numbers, len(known), standardizer=standardizer, logger=logger)
    fit = partial(fit, preconditioner=Preconditioner.fit(train, standardizer))
    strengths = torch.tensor(sorted(penalties, reverse=True), dtype=standardizer.mean.dtype, device=train.device)
    best, chosen, start = len(strengths) // 2, dict[str, float](), None
    held = held_out(numbers, seed=seed)
    if held.any() and len(strengths) > 1:
        what = f"linear probe, {len(strengths)} penalties"
        swept = fit(penalties=strengths, index=(~held).nonzero()[:, 0], tolerance=SWEEP_TOLERANCE, what=what)
        best, chosen = _best(swept.fold_standardizer(standardizer), train, numbers, held)
        start = swept.head(best)
    model = fit(penalties=strengths[best : best + 1], start=start, tolerance=FINAL_TOLERANCE, what="linear probe")
    figures = _test(model.fold_standardizer(standardizer), test, torch.searchsorted(known, test_labels))
    return figures | {"penalty": float(strengths[best])} | chosen


def linear_published(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    recipe: Recipe = LINEAR_RECIPE,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """Train a linear layer by SwAV's published protocol (Caron et al. 2020, appendix A.3), and measure its accuracy.

    SGD with momentum 0.9 and weight decay 1e-6 for 100 epochs in batches of 256; the learning rate starts at 0.3 and decays
    to 0 by a cosine schedule, epoch by epoch; weights start from N(0, 0.01), the bias from 0; features are not standardized.
    It works on embeddings computed once, of center crops: the original crops and flips each image anew in each epoch. The
    result is that of the last epoch; the original reports the best epoch, which is chosen on the test images.

    Arguments, results and errors are those of :func:`linear_sgd`; other recipes are in
    :data:`coterie.evaluation.probes.recipe.RECIPES`.
    """
    return linear_sgd(train, train_labels, test, test_labels, recipe=recipe, seed=seed, logger=logger)


def linear_sgd(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    recipe: Recipe = LINEAR_RECIPE,
    learning_rates: Sequence[float] = (),
    epochs: int | None = None,
    standardize: bool = False,
    seed: int = 0,
    logger: Logger | None = None,
) -> dict[str, float]:
    """:func:`linear_published` with other learning rates or another number of epochs.

    Several learning rates are trained at once, on the same batches, with a fifth of each class of TRAIN held out; the one
    with the highest accuracy there is then trained on all of TRAIN.

    Args:
        train: features to train on.
        train_labels: their classes.
        test: features to test on.
        test_labels: their classes.
        recipe: batch size, weight decay and schedule.
        learning_rates: initial learning rates to choose from; empty: that of the recipe.
        epochs: passes over TRAIN; None: as the recipe says.
        standardize: scale the features to mean 0 and standard deviation 1 first, by the statistics of TRAIN.
        seed: for the initial weights, the order and the held-out rows.
        logger: receives progress.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` as of :func:`linear`, ``learning_rate``, and ``held_out_top1`` if it was
        chosen.

    Raises:
        UserError: as of :func:`linear`; also when SGD diverges, or when there is a choice and no class has an image to spare.
    """
    check_labeled_features(train, train_labels, test, test_labels)
    known, numbers = torch.unique(train_labels, return_inverse=True)
    standardizer = Standardizer.fit(train) if standardize else Standardizer.identity(train)
    recipe, learning_rates = replace(recipe, epochs=epochs or recipe.epochs), learning_rates or (recipe.head_lr,)
    fit = partial(_sgd, train, numbers, len(known), standardizer=standardizer, recipe=recipe, seed=seed, logger=logger)
    best, chosen = 0, dict[str, float]()
    if len(learning_rates) > 1:
        held = held_out(numbers, seed=seed)
        if not held.any():
            raise UserError(
                "no class of TRAIN has two images, so no learning rate can be chosen: give one, or more images"
            )
        swept = fit(rates=learning_rates, index=(~held).nonzero()[:, 0])
        best, chosen = _best(swept, train, numbers, held)
    model = fit(rates=learning_rates[best : best + 1], index=torch.arange(len(train), device=train.device))
    rate = learning_rates[best]
    if not (model.weights.isfinite().all() and model.bias.isfinite().all()):
        raise UserError(f"SGD diverges on these embeddings at a learning rate of {rate:g}: use the probe `linear`")
    return _test(model, test, torch.searchsorted(known, test_labels)) | {"learning_rate": rate} | chosen


def held_out(labels: Int[Tensor, " n"], *, share: float = 0.2, seed: int = 0) -> Bool[Tensor, " n"]:
    """Choose rows to hold out from training, to choose a hyperparameter: a random share of each class.

    At least one row of each class is trained on, and one held out if there are two or more. The choice is the same on every
    device.

    Args:
        labels: the class of each row, from 0.
        share: what part of each class to hold out.
        seed: for the choice.

    Returns:
        Whether each row is held out.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # class by class, each shuffled
    counts = labels.bincount()
    place = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    wanted = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    held[order] = place < wanted[labels[order]]
    return held


def _sgd(
    rows: Tensor,
    labels: Tensor,
    classes: int,
    rates: Sequence[float],
    *,
    standardizer: Standardizer,
    index: Tensor,
    recipe: Recipe,
    seed: int,
    logger: Logger | None,
) -> LinearClassifier:
    """One head for each learning rate, trained on the rows in ``index``, from the same weights and on the same batches."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same numbers on every device
    first = SGD_INITIAL_STD * torch.randn(classes, 1, rows.shape[1], generator=generator, dtype=torch.float64)
    weights = first.to(standardizer.mean).repeat(1, len(rates), 1)
    model = LinearClassifier(weights, weights.new_zeros(classes, len(rates)))
    momentum = LinearClassifier(torch.zeros_like(model.weights), torch.zeros_like(model.bias))
    peaks = torch.tensor(rates).to(standardizer.mean)
    what = f"linear probe by SGD, {len(rates)} learning rates" if len(rates) > 1 else "linear probe by SGD"
    for epoch in (logger or NullLogger()).progress(range(recipe.epochs), recipe.epochs, what):
        check_interrupted()
        rate = peaks * recipe.factor(epoch)
        order = index[torch.randperm(len(index), generator=generator).to(rows.device)]
        for batch in torch.split(order, recipe.batch_size):
            _, gradient = loss_and_gradient(model, standardizer(rows[batch]), labels[batch])
            for value, buffer, change, step in (
                (model.weights, momentum.weights, gradient.weights, rate[:, None]),
                (model.bias, momentum.bias, gradient.bias, rate),
            ):
                buffer.mul_(SGD_MOMENTUM).add_(change, alpha=1 / len(batch)).add_(value, alpha=recipe.weight_decay)
                value.sub_(step * buffer)
    return model.fold_standardizer(standardizer)


def _right(model: LinearClassifier, rows: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
    """Whether the best class, and whether one of the best five, is right: [2 l n]."""
    found = []
    for part in chunk_slices(
        len(labels if index is None else index), max(rows.shape[1], model.bias.numel()), rows.device
    ):
        these = part if index is None else index[part]
        scores = model.scores(rows[these])
        right = scores.topk(min(5, len(scores)), dim=0).indices == labels[these]
        found.append(torch.stack([right[0], right.any(dim=0)]))
    return torch.cat(found, dim=2)


def _best(model: LinearClassifier, rows: Tensor, labels: Tensor, held: Tensor) -> tuple[int, dict[str, float]]:
    """The head with the highest accuracy on the held-out rows, the first of equals; and that accuracy in percent."""
    hits = _right(model, rows, labels, held.nonzero()[:, 0])[0].sum(dim=1)
    broken = ~model.weights.isfinite().all(dim=2).all(dim=0)
    best = int(hits.masked_fill(broken, -1).argmax())
    return best, {"held_out_top1": 100 * int(hits[best]) / int(held.sum())}


def _test(model: LinearClassifier, rows: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracies of the only head, in percent."""
    in_top1, in_top5 = _right(model, rows, labels)[:, 0]
    return accuracies(in_top1, in_top5, labels)
