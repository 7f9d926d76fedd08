"""How many images a run's label-free metrics and its report are computed from: a small share of what its training computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.config.schema import PretrainConfig
from coterie.evaluation.augmented_views import VIEWS_PER_IMAGE
from coterie.grouping.teacher import SameNetwork

SNAPSHOT_SHARE = 0.01
"""Share of the pixels that pass through the network in training that the label-free metrics of all snapshots may add.

It is 2 % of the time where training is in bfloat16 and evaluation in float32, which takes twice as long for a pixel."""
REPORT_SHARE = 0.004
"""The same for the images of the report."""
MOST_IMAGES, FEWEST_IMAGES = 1000, 64
"""Bounds of the images that label-free metrics are computed from, whatever the run computes."""
MOST_VIEWS, FEWEST_VIEWS = VIEWS_PER_IMAGE, 2
ENOUGH_IMAGES = 400
"""Below so many images, each has ``FEWEST_VIEWS`` views, so that there can be more of them."""
BACKWARD = 2.0
"""A backward pass takes about as long as two forward passes."""


@dataclass(frozen=True)
class Sample:
    """What the label-free metrics of a run are computed from.

    Attributes:
        images: number of images of a random sample.
        views: number of augmented views of each.
    """

    images: int
    views: int


def forward_pixels(config: PretrainConfig, images: int) -> float:
    """What a run's training computes, as the number of pixels that pass forward through its network.

    Args:
        config: settings of the run.
        images: number of images in its source.
    """
    roles, sizes = config.views.roles, config.views.sizes
    student = sum(sizes[view] ** 2 for view in roles.student_views)
    apart = () if isinstance(config.target, SameNetwork) else (*roles.target_views, *roles.bn_only_views)
    per_image = (1 + BACKWARD) * student + sum(sizes[view] ** 2 for view in apart)
    return per_image * config.batch_size * config.total_steps(images)


def label_free_sample(config: PretrainConfig, images: int) -> Sample:
    """How many images, and views of each, the label-free metrics of a new run are computed from.

    All its snapshots together then take ``SNAPSHOT_SHARE`` of the training's forward passes, between the bounds above. It
    depends on the settings and the number of images alone, never on a time, so that a repeated run has the same figures.

    Args:
        config: settings of the run.
        images: number of images in its source.
    """
    snapshots = max(1, min(config.run.snapshots, config.epochs))
    each = SNAPSHOT_SHARE * forward_pixels(config, images) / snapshots

    def affordable(views: int) -> int:
        pixels = config.views.center_crop_size**2 + views * max(config.views.sizes) ** 2
        return max(FEWEST_IMAGES, min(MOST_IMAGES, int(each / pixels)))

    views = MOST_VIEWS if affordable(MOST_VIEWS) >= ENOUGH_IMAGES else FEWEST_VIEWS
    return Sample(min(affordable(views), images), views)


def sample_so_far(log: Sequence[Mapping[str, Any]], config: PretrainConfig, images: int) -> Sample:
    """The sample of a run's earlier snapshots, which its later ones keep even if it is extended; else that of a new run.

    Args:
        log: the lines of ``metrics.jsonl``.
        config: settings of the run.
        images: number of images in its source.
    """
    first = next((line for line in log if "label_free" in line), None)
    if first is None:
        return label_free_sample(config, images)
    match first.get("sampled"):
        case [int(number), int(views)] if number > 0 and views > 0:
            return Sample(min(number, images), views)
    return Sample(min(MOST_IMAGES, images), MOST_VIEWS)  # of an earlier version


def label_free_images(config: PretrainConfig, images: int) -> int:
    """How many images, views among them, the label-free metrics of a run embed in all; for estimates of its time."""
    sample = label_free_sample(config, images)
    return sample.images * (1 + sample.views) * min(config.run.snapshots, config.epochs)
