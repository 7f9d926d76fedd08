"""Fine-tuning with few labels, and training from scratch with the same labels beside it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.source import Subset
from coterie.data.sources.source import labels as labels_of
from coterie.embedding.embed import embed_source
from coterie.evaluation.labeled_data import Labeled
from coterie.evaluation.probes.checks import check_finite
from coterie.evaluation.probes.few_labels import FewLabels, labeled_subset, parse_labels
from coterie.evaluation.probes.supervised import Recipe, fitted_aloud, seeded, train_classifier
from coterie.logger import Logger, NullLogger

LOW_SHARE, LOW_PER_CLASS = 0.03, 40
"""Below this share, or this many labels a class, labels are few: half way (as factors go) between ImageNet's 1% and 10%."""
ONE_PERCENT = Recipe(0.02, 5.0, epochs=20)
"""Fine-tuning with 1% of the labels of ImageNet, 13 a class: SwAV, appendix A.4."""
TEN_PERCENT = Recipe(0.01, 0.2, epochs=20)
"""Fine-tuning with 10% of the labels of ImageNet, 128 a class: SwAV, appendix A.4."""
FROM_SCRATCH = Recipe(0.1, 0.1, epochs=100, weight_decay=5e-4, decay="cosine")
"""New weights with the same labels: the usual 0.1 for batches of 256 along a cosine, and five times the epochs. Ours."""
LARGEST_MOVE = 0.5
"""How far a step of the classifier may move the scores of the images of a class (:func:`gentle`)."""
LOOKED_AT = 256
"""Images whose features are measured for that."""


def finetune(
    network: nn.Module,
    pair: Labeled,
    preprocessing: Preprocessing,
    *,
    build: Callable[[], nn.Module],
    labels: str = "10%",
    recipe: Recipe | None = None,
    scratch: Recipe = FROM_SCRATCH,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    logger: Logger | None = None,
) -> dict[str, float]:
    """What few labels make of a pretrained backbone, all of it fine-tuned; and, beside it, of new weights.

    Args:
        network: the pretrained backbone, images to features; a copy is trained, it stays as it is.
        pair: the images; of the training ones, a stratified subset keeps its labels, the others are not looked at.
        preprocessing: how images are brought to the network.
        build: gives the same network with new weights, for the baseline; they are drawn from ``seed``.
        labels: how many: a share, such as "1%" or "10%", or images a class, such as "5" (:func:`labeled_subset`).
        recipe: None: the published one, :data:`ONE_PERCENT` below 3% or 40 labels a class, :data:`TEN_PERCENT` from there,
            fitted to few images (:meth:`Recipe.fitted`) and to large features (:func:`gentle`), which the logger is told.
        scratch: the recipe of the baseline.
        seed: of the subset, the new weights, the order and the crops; the same seed gives the same figures on a CPU.
        workers: processes that load images.
        device: where the networks are trained.
        autocast: precision of the forward pass where it may be low; None: as the weights are.
        logger: is told of progress.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent after the last epoch; the same of the baseline as
        ``scratch_top1`` ...; and ``labels``, the number of images whose labels were used.

    Raises:
        UserError: see :func:`train_classifier`.
    """
    logger = logger or NullLogger()
    few = parse_labels(labels)
    part, remarks = _with_few_labels(pair, few, seed)
    for line in remarks:
        logger.warning(line)
    train = partial(train_classifier, seed=seed, workers=workers, device=device, autocast=autocast, logger=logger)
    tuned, count = copy.deepcopy(network).to(device), len(part.train)
    what = f"fine-tuning on {count} labels"
    if recipe is None:
        published = fitted_aloud(published_recipe(few), count, logger, what)
        recipe = gentle(published, tuned, part, preprocessing, workers=workers, device=device)
        if recipe != published:
            logger.info(
                f"{what}: the published learning rate of the classifier, {published.head_rate:.3g} for batches of "
                f"{published.batch_size}, is too high for features of this size: {recipe.head_rate:.3g}"
            )
    figures = train(tuned, part, preprocessing, recipe, what=what)
    with seeded(seed, device):
        new = build()
    baseline = train(new, part, preprocessing, scratch, what=f"from new weights on {count} labels")
    return figures | {f"scratch_{name}": value for name, value in baseline.items()} | {"labels": float(count)}


def gentle(
    recipe: Recipe,
    network: nn.Module,
    pair: Labeled,
    preprocessing: Preprocessing,
    *,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Recipe:
    """The same with a classifier's rate that these features stand.

    At the start all C classes are as likely, and a step with rate r moves the scores of the images of a class by about
    ``r m / C``, m being the mean square norm of the features. With published rates and networks that is little; features
    of small networks may be large and classes few, and then the first steps throw the classifier about, and it the
    backbone. So r is at most ``C / (2 m)``. Ours.
    """
    places = np.linspace(0, len(pair.train) - 1, min(LOOKED_AT, len(pair.train))).astype(np.int64)
    seen = embed_source(network.eval(), Subset(pair.train, places), preprocessing, workers=workers, device=device)
    check_finite(seen.rows, "TRAIN")
    classes = len(np.unique(labels_of(pair.train)))
    largest = LARGEST_MOVE * classes / max(1e-12, float(seen.rows.detach().double().square().sum(dim=1).mean()))
    return replace(recipe, head_rate=min(recipe.head_rate, largest))


def published_recipe(few: FewLabels) -> Recipe:
    """:data:`ONE_PERCENT` below 3% or 40 labels a class, :data:`TEN_PERCENT` from there."""
    low = few.per_class < LOW_PER_CLASS if few.share is None else few.share < LOW_SHARE  # type: ignore[operator]
    return ONE_PERCENT if low else TEN_PERCENT


def _with_few_labels(pair: Labeled, few: FewLabels, seed: int) -> tuple[Labeled, tuple[str, ...]]:
    known = labels_of(pair.train)
    chosen = labeled_subset(known, share=few.share, per_class=few.per_class, seed=seed)
    part = Subset(pair.train, chosen.positions, known[chosen.positions], pair.train.classes)
    return Labeled(part, pair.test), chosen.remarks
