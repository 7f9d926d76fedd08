"""Fine-tuning with few labels, and as a baseline training from scratch with the same labels."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.source import Subset, random_positions
from coterie.data.sources.source import labels as labels_of
from coterie.embedding.embed import embed_source
from coterie.evaluation.input_checks import check_finite
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes.classifier_training import seeded
from coterie.evaluation.probes.few_labels import TENTH, FewLabels, labeled_subset
from coterie.evaluation.probes.listed_labels import ListedLabels
from coterie.evaluation.probes.recipe import Recipe, adapt_recipe
from coterie.evaluation.probes.supervised import train_classifier
from coterie.logger import NullLogger

LOW_SHARE, LOW_PER_CLASS = 0.03, 40
"""Below this share, or number of labels per class, labels are few: about the geometric mean of ImageNet's 1% and 10%."""
ONE_PERCENT = Recipe(0.02, 5.0, epochs=20)
"""Fine-tuning with 1% of the labels of ImageNet, 13 per class: SwAV, appendix A.4."""
TEN_PERCENT = Recipe(0.01, 0.2, epochs=20)
"""Fine-tuning with 10% of the labels of ImageNet, 128 per class: SwAV, appendix A.4."""
FINETUNING_RECIPES = {"1%": ONE_PERCENT, "10%": TEN_PERCENT}
"""What a user may ask for by name."""
FROM_SCRATCH = Recipe(0.1, 0.1, epochs=100, weight_decay=5e-4, schedule="cosine")
"""New weights with the same labels: the usual 0.1 for batches of 256 with a cosine schedule, and five times the epochs. Our
choice."""
MAX_SCORE_CHANGE = 0.5
"""How far a step of the classifier may move the scores of the images of a class (:func:`limit_head_lr`)."""
MEASURED_IMAGES = 256
"""Images whose features are measured for that."""


def finetune(
    network: nn.Module,
    pair: LabeledPair,
    preprocessing: Preprocessing,
    *,
    build: Callable[[], nn.Module],
    few: FewLabels | ListedLabels = TENTH,
    recipe: Recipe | str | None = None,
    scratch: Recipe = FROM_SCRATCH,
    seed: int = 0,
    runtime: Runtime = ON_CPU,
) -> dict[str, float]:
    """Fine-tune a whole pretrained backbone on few labels, and train new weights on the same labels as a baseline.

    Args:
        network: the pretrained backbone, from images to features; a copy is trained, it stays as it is.
        pair: the images; a stratified subset of the training images keeps its labels, the others are not used.
        preprocessing: how images are prepared for the network.
        build: gives the same network with new weights, for the baseline; they are drawn from ``seed``.
        few: how many labels: a share of those of each class, or a number per class (:func:`labeled_subset`); or which.
        recipe: None: the published one, :data:`ONE_PERCENT` below 3% or 40 labels per class, otherwise :data:`TEN_PERCENT`,
            adapted to few images (:meth:`Recipe.adapted_to`) and to large features (:func:`limit_head_lr`). By a name of
            :data:`FINETUNING_RECIPES`: with the published rates, adapted only to fewer images than ImageNet's lists have.
        scratch: the recipe of the baseline.
        seed: for the subset, the new weights, the order and the crops; the same seed gives the same result on a CPU.
        runtime: where and how to compute; its logger receives progress and messages.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent after the last epoch; the same of the baseline as
        ``scratch_top1`` ...; and ``labels``, the number of images whose labels were used.

    Raises:
        UserError: see :func:`train_classifier`.
    """
    logger = runtime.logger
    part, remarks = _with_few_labels(pair, few, seed)
    for line in remarks:
        logger.warning(line)
    train = partial(train_classifier, seed=seed, runtime=runtime)
    tuned, count = copy.deepcopy(network).to(runtime.device), len(part.train)
    what = f"fine-tuning on {count} labels"
    if isinstance(recipe, str):
        recipe = adapt_recipe(FINETUNING_RECIPES[recipe], count, logger, what)
    elif recipe is None:
        if isinstance(few, ListedLabels):
            few = FewLabels(per_class=max(1, count // len(np.unique(labels_of(part.train)))))
        published = adapt_recipe(published_recipe(few), count, logger, what)
        recipe = limit_head_lr(published, tuned, part, preprocessing, runtime)
        if recipe != published:
            logger.info(
                f"{what}: the published learning rate of the classifier, {published.head_lr:.3g} for batches of "
                f"{published.batch_size}, is too high for features of this size: {recipe.head_lr:.3g}"
            )
    figures = train(tuned, part, preprocessing, recipe, what=what)
    with seeded(seed, runtime.device):
        new = build()
    baseline = train(new, part, preprocessing, scratch, what=f"training from scratch on {count} labels")
    return figures | {f"scratch_{name}": value for name, value in baseline.items()} | {"labels": float(count)}


def limit_head_lr(
    recipe: Recipe,
    network: nn.Module,
    pair: LabeledPair,
    preprocessing: Preprocessing,
    runtime: Runtime = ON_CPU,
) -> Recipe:
    """Lower the learning rate of the classifier to what the size of the features allows.

    In the beginning all C classes are equally likely, and a step with learning rate r moves the scores of the images of a
    class by about ``r m / C``, where m is the mean squared norm of the features. For published rates and networks that is
    little; features of small networks may be large and classes few, and then the first steps disturb the classifier, and
    through it the backbone. So r is at most ``C / (2 m)``. This limit is ours, not the paper's.

    Args:
        recipe: whose learning rate is limited.
        network: the backbone, from images to features; it is left in evaluation mode.
        pair: the training images, of which up to ``MEASURED_IMAGES``, drawn at random, are measured.
        preprocessing: how images are prepared for the network.
        runtime: where the network is, and how many processes load images.

    Raises:
        UserError: NaN or infinity in the features.
    """
    places = random_positions(MEASURED_IMAGES, len(pair.train))
    quiet = replace(runtime, logger=NullLogger(), autocast=None)  # the rate is the same, whatever the precision
    measured = embed_source(network.eval(), Subset(pair.train, places), preprocessing, quiet)
    check_finite(measured.rows, "TRAIN")
    return limit_by_features(recipe, measured.rows, len(np.unique(labels_of(pair.train))))


def limit_by_features(recipe: Recipe, rows: Float[Tensor, "n d"], classes: int) -> Recipe:
    """The limit of :func:`limit_head_lr`, from features that are known.

    Args:
        recipe: whose learning rate is limited.
        rows: features of training images.
        classes: number of classes.
    """
    mean_square = float(rows.detach().double().square().sum(dim=1).mean())
    return replace(recipe, head_lr=min(recipe.head_lr, MAX_SCORE_CHANGE * classes / max(1e-12, mean_square)))


def published_recipe(few: FewLabels) -> Recipe:
    """:data:`ONE_PERCENT` below 3% or 40 labels per class, otherwise :data:`TEN_PERCENT`."""
    low = few.per_class < LOW_PER_CLASS if few.share is None else few.share < LOW_SHARE  # type: ignore[operator]
    return ONE_PERCENT if low else TEN_PERCENT


def _with_few_labels(
    pair: LabeledPair, few: FewLabels | ListedLabels, seed: int
) -> tuple[LabeledPair, tuple[str, ...]]:
    known = labels_of(pair.train)
    if isinstance(few, ListedLabels):
        chosen = few.subset(pair.train)
    else:
        chosen = labeled_subset(known, share=few.share, per_class=few.per_class, seed=seed)
    part = Subset(pair.train, chosen.positions, known[chosen.positions], pair.train.classes)
    return LabeledPair(part, pair.test), chosen.remarks
