"""Training recipes for classifiers: learning rates, epochs, batch size, schedule."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from coterie.logger import Logger

MIN_STEPS_PER_EPOCH, MIN_BATCH_SIZE, MIN_STEPS = 16, 16, 320
"""What a recipe is adapted to if there are few images: steps per epoch, as long as batches have at least this many images;
steps in total."""


@dataclass(frozen=True)
class Recipe:
    """How to train a classifier: SGD with momentum 0.9, with one learning rate for the backbone and one for the classifier.

    Attributes:
        backbone_lr: learning rate of the backbone; 0: it is frozen, in evaluation mode.
        head_lr: learning rate of the linear classifier.
        epochs: passes over the images.
        batch_size: images per step, for which the learning rates are meant.
        weight_decay: of all trained weights.
        schedule: "drops": both rates times 0.2 after 12/20 and 16/20 of the epochs; "cosine": down to 0, epoch by epoch;
            "quarters": times 0.1 after each quarter of the epochs.
    """

    backbone_lr: float
    head_lr: float
    epochs: int
    batch_size: int = 256
    weight_decay: float = 0.0
    schedule: Literal["drops", "cosine", "quarters"] = "drops"

    def factor(self, epoch: int) -> float:
        """What both learning rates are multiplied with in an epoch, counted from 0."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        if self.schedule == "quarters":
            return float(0.1 ** (4 * epoch // self.epochs))
        return 0.2 ** sum(20 * epoch >= drop * self.epochs for drop in (12, 16))

    def with_batch_size(self, batch_size: int) -> "Recipe":
        """Change the batch size, and both learning rates in proportion (Goyal et al. 2017, arXiv 1706.02677)."""
        share = batch_size / self.batch_size
        rates = self.backbone_lr * share, self.head_lr * share
        return replace(self, backbone_lr=rates[0], head_lr=rates[1], batch_size=batch_size)

    def adapted_to(self, images: int) -> "Recipe":
        """Adapt the recipe to few images: smaller batches, for 16 steps per epoch or as many as batches of 16 allow.

        Learning rates follow the batch size. If that leaves fewer than 320 steps (20 epochs of 16), there are more epochs:
        20 steps teach nothing. A recipe whose batches are small enough stays as it is.

        Args:
            images: number of training images.
        """
        size = images // max(1, min(MIN_STEPS_PER_EPOCH, images // MIN_BATCH_SIZE))
        if size >= self.batch_size:
            return self
        epochs = math.ceil(MIN_STEPS / (images // size))
        return replace(self.with_batch_size(size), epochs=max(self.epochs, epochs))


LINEAR_RECIPE = Recipe(0.0, 0.3, epochs=100, weight_decay=1e-6, schedule="cosine")
"""A linear classifier on frozen features: SwAV (Caron et al. 2020, arXiv 2006.09882), appendix A.3."""
PLACES205 = Recipe(0.0, 0.01, epochs=28, weight_decay=1e-4, schedule="quarters")
"""A linear classifier for Places205: SwAV, appendix A.5, after Goyal et al. 2019 (arXiv 1905.01235). The rate is divided by
ten "three times equally spaced", says the paper; that this is after 7, 14 and 21 epochs is our reading."""
INAT18 = replace(PLACES205, epochs=84)
"""A linear classifier for iNaturalist 2018, likewise: after 21, 42 and 63 epochs."""
SMOG_SWIN = Recipe(0.0, 0.1, epochs=150, schedule="cosine")
"""A linear classifier on the pooled features of a Swin-T: the released code of SMoG (Pang et al. 2022, arXiv 2207.06167). Rate,
decay (none) and epochs are theirs; batches of 256 and the cosine are those of its ResNets, which its code shares. On ResNets it
is SwAV's :data:`LINEAR_RECIPE`; the release has no ViT."""

RECIPES = {"imagenet": LINEAR_RECIPE, "places205": PLACES205, "inat18": INAT18, "smog_swin": SMOG_SWIN}
"""Published recipes of linear probes, by the name that ``--recipe`` takes."""


def adapt_recipe(recipe: Recipe, images: int, logger: Logger, what: str) -> Recipe:
    """Apply :meth:`Recipe.adapted_to`, and inform the logger if that changes anything.

    Args:
        recipe: to be adapted.
        images: number of training images.
        logger: receives the message.
        what: name of the training for the logger.
    """
    adapted = recipe.adapted_to(images)
    if adapted != recipe:
        logger.info(
            f"{what}: few images for batches of {recipe.batch_size} and {recipe.epochs} epochs: batches of "
            f"{adapted.batch_size}, rates times {adapted.batch_size}/{recipe.batch_size}, {adapted.epochs} epochs"
        )
    return adapted
