"""How many images label-free metrics are computed from: a share of the training, the same from the same settings."""

from dataclasses import replace

import pytest

from coterie.config.schema import PretrainConfig
from coterie.evaluation.sample_size import (
    FEWEST_IMAGES,
    FEWEST_VIEWS,
    MOST_IMAGES,
    MOST_VIEWS,
    SNAPSHOT_SHARE,
    Sample,
    forward_pixels,
    label_free_images,
    label_free_sample,
    sample_so_far,
)
from coterie.methods.imagenet import PUBLISHED
from coterie.methods.planner import Planner
