"""The labeled images that a classifier is trained on, with their features, divided into parts that are held out."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.classifier.choose_kind import Kind
from coterie.classifier.features import FeatureStore
from coterie.classifier.folds import CROSS_VALIDATED, folds
from coterie.classifier.linear_candidates import MEASURED
from coterie.classifier.training_images import TrainingImages, content_keys, copies
from coterie.data.sources.source import random_positions
from coterie.errors import UserError
from coterie.formatting import first_few


@dataclass(frozen=True)
class LabeledFeatures:
    """Labeled images with their features, and some of the images without a label.

    Attributes:
        images: those that can be decoded.
        keys: what identifies the content of each.
        rows: their features.
        parts: as of :func:`coterie.classifier.folds.folds`.
        unlabeled: positions of images without a label.
        unlabeled_rows: their features.
    """

    images: TrainingImages
    keys: list[str]
    rows: Float[Tensor, "n d"]
    parts: Int[Tensor, " n"]
    unlabeled: Int[np.ndarray, " m"]
    unlabeled_rows: Float[Tensor, "m d"]


def drawn_unlabeled(images: TrainingImages, kind: Kind) -> Int[np.ndarray, " m"]:
    """The images without a label that take part, of many some that are drawn; none where they cannot help.

    Args:
        images: all images.
        kind: of the classifier.
    """
    helpful = kind != "knn" and not images.multi_label
    drawn = random_positions(MEASURED if helpful else 0, len(images.unlabeled))
    return np.asarray(images.unlabeled[drawn])


def labeled_features(images: TrainingImages, store: FeatureStore, kind: Kind, seed: int) -> LabeledFeatures:
    """Embed the images, leave out those that cannot be decoded, and divide the others into parts.

    Args:
        images: all images.
        store: embeds them.
        kind: of the classifier: one that is fine-tuned is trained once, so one fifth is held out.
        seed: for the parts.

    Raises:
        UserError: of some class no image can be decoded.
    """
    logger = store.runtime.logger
    places, rows = store.features(images.source, images.positions, "labeled")
    images = replace(images, positions=images.positions[places], truth=images.truth[torch.from_numpy(places)])
    gone = [name for name, count in zip(images.classes, images.counts, strict=True) if not count]
    if gone:
        raise UserError(
            f"no image of {first_few(gone, ', ')} can be decoded: leave these classes out, or copy the files again"
        )
    keys = content_keys(images.labeled, logger)
    if (line := copies(keys, images.truth)) is not None:
        logger.warning(line)
    parts = folds(images.strata, keys, most=0 if kind == "finetune" else CROSS_VALIDATED, seed=seed)
    unlabeled, others = drawn_unlabeled(images, kind), rows[:0]
    if len(unlabeled):
        found, others = store.features(images.source, unlabeled, "unlabeled")
        unlabeled = unlabeled[found]
    return LabeledFeatures(images, keys, rows, parts, unlabeled, others)
