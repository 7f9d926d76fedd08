"""What a budget of time pays for: embedding at all, and how many epochs of fine-tuning, by a rehearsal on this machine."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int

from coterie.classifier.features import FeatureStore
from coterie.classifier.finetune import GUESSED, finetuning_recipe
from coterie.classifier.folds import FOLDS
from coterie.classifier.heads import linear_head
from coterie.classifier.training_images import TrainingImages
from coterie.config.duration import format_minutes
from coterie.data.sources.source import ImageSource, Subset
from coterie.embedding.embed import embed_source
from coterie.errors import UserError
from coterie.evaluation.probes.classifier_training import ClassifierTraining, enough_memory, seeded
from coterie.evaluation.probes.recipe import Recipe
from coterie.evaluation.probes.supervised import crop_loader
from coterie.formatting import format_duration
from coterie.logger import NullLogger
from coterie.models.backbone import feature_width
from coterie.models.layers import batch_norms
from coterie.models.own_backbone import OwnBackbone
from coterie.training.profiling.step_timer import StepTimer
from coterie.training.time_limit import TimeLimit

FIRST_IMAGES, MOST_IMAGES = 16, 256
"""Images that are embedded first, to warm up, and the most that are timed then."""
LEAST_STEPS, MOST_STEPS = 3, 20
MOST_EPOCHS = 5
"""Times the epochs of the published recipe, at most, however much time there is."""


@dataclass(frozen=True)
class Pace:
    """What was measured on this machine, in seconds.

    Attributes:
        image: of embedding an image.
        step: of a step of fine-tuning.
    """

    image: float
    step: float = 0.0

    def epoch(self, steps: int, held: int) -> float:
        """Seconds of an epoch.

        Args:
            steps: of the epoch.
            held: images that are held out, and embedded after it.
        """
        return steps * self.step + held * self.image


def check_embedding(
    limit: TimeLimit, store: FeatureStore, source: ImageSource, wanted: Sequence[Int[np.ndarray, " _"]]
) -> None:
    """Refuse a budget that does not pay for embedding.

    Args:
        limit: the budget.
        store: embeds the images, and knows what is embedded already.
        source: the images.
        wanted: positions of those that are needed, each kind of them.

    Raises:
        UserError: with the shortest budget that makes sense.
    """
    missing = _missing(store, source, wanted)
    seconds = len(missing) * _image_seconds(store, Subset(source, missing), limit.rehearsal) if len(missing) else 0.0
    if seconds > limit.left:
        raise UserError(
            f"--time {format_minutes(limit.minutes)} is too short: embedding {len(missing):,} images takes about "
            f"{format_duration(seconds)} on this machine; give --time {limit.shortest(seconds)} or more, or fewer images"
        )


def finetuning_pace(
    limit: TimeLimit, store: FeatureStore, images: TrainingImages, wanted: Sequence[Int[np.ndarray, " _"]], seed: int
) -> Pace:
    """Rehearse embedding and some steps, and refuse a budget that does not pay for one epoch.

    Args:
        limit: the budget.
        store: embeds the images, and knows what is embedded already.
        images: the images.
        wanted: positions of those whose features are needed, each kind of them.
        seed: of the training.

    Raises:
        UserError: with the shortest budget that makes sense.
    """
    missing, held = _missing(store, images.source, wanted), len(images.positions) // FOLDS
    recipe = finetuning_recipe(images.counts, len(images.positions) - held)
    image = _image_seconds(store, images.labeled, limit.rehearsal)
    pace = Pace(image, _step_seconds(store, images, recipe, seed, limit.rehearsal))
    epoch = pace.epoch((len(images.positions) - held) // recipe.batch_size, held)
    seconds = epoch + _around(pace, images) + len(missing) * pace.image
    if seconds > limit.left:
        raise UserError(
            f"--time {format_minutes(limit.minutes)} is too short to fine-tune: on this machine embedding takes about "
            f"{format_duration(len(missing) * pace.image)} and an epoch {format_duration(epoch)}; give --time "
            f"{limit.shortest(seconds)} or more, or --classifier linear"
        )
    return pace


def affordable_epochs(limit: TimeLimit, pace: Pace, images: TrainingImages, recipe: Recipe, steps: int) -> int:
    """The epochs that are paid for by what is left, at least one.

    Args:
        limit: the budget.
        pace: of this machine.
        images: the images.
        recipe: whose epochs are the measure of the most.
        steps: of an epoch.
    """
    epoch = pace.epoch(steps, len(images.positions) // FOLDS)
    fits = math.floor((limit.left - _around(pace, images)) / max(epoch, 1e-9))
    return max(1, min(fits, MOST_EPOCHS * recipe.epochs))


def _missing(store: FeatureStore, source: ImageSource, wanted: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([store.missing(source, each) for each in wanted])


def _around(pace: Pace, images: TrainingImages) -> float:
    """Seconds of what follows the last epoch: the images without a label."""
    return pace.image * (0 if images.multi_label else min(GUESSED, len(images.unlabeled)))


def _image_seconds(store: FeatureStore, images: Subset, seconds: float) -> float:
    """Seconds of embedding one of some images."""
    model, runtime = store.model, replace(store.runtime, logger=NullLogger())

    def embed(count: int) -> float:
        began = time.monotonic()
        embed_source(model.network, Subset(images, np.arange(count)), model.preprocessing, runtime)
        return (time.monotonic() - began) / count

    first = min(FIRST_IMAGES, len(images))
    usual = embed(first)
    count = min(len(images), MOST_IMAGES, max(first, int(seconds / max(usual, 1e-9))))
    return min(usual, embed(count))


def _step_seconds(store: FeatureStore, images: TrainingImages, recipe: Recipe, seed: int, seconds: float) -> float:
    """Seconds of a step of fine-tuning, on a copy of the network."""
    model, runtime = store.model, replace(store.runtime, logger=NullLogger())
    network, device = copy.deepcopy(model.network), runtime.device
    width = network.num_features if isinstance(network, OwnBackbone) else feature_width(network)
    head = linear_head(torch.zeros(len(images.classes), width), torch.zeros(len(images.classes)))
    timer = StepTimer(seconds, MOST_STEPS, device, least=LEAST_STEPS)
    loader = crop_loader(images.labeled, model.preprocessing, recipe, seed=seed, runtime=runtime)
    with enough_memory(recipe, model.preprocessing), seeded(seed, device):
        head = head.requires_grad_(True).to(device)
        truth, frozen = images.truth.to(device), batch_norms(network)
        training = ClassifierTraining(network, head, loader, truth, recipe, runtime, frozen=frozen, seed=seed)
        training.run(passed=timer.over)
    return timer.typical
