"""How many images label-free metrics are computed from: a share of the training, the same from the same settings."""

from dataclasses import replace

import pytest

from coterie.config.facts import Facts
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
from coterie.grouping.teacher import MomentumTeacherConfig
from coterie.methods.presets import plan_method


def small(epochs: int = 80, images: int = 6000) -> tuple[PretrainConfig, int]:
    return plan_method("swav", Facts(images, 48), epochs=epochs)[0], images


def test_all_snapshots_take_a_small_share_of_a_long_run_and_little_of_any() -> None:
    config, images = small()
    sample = label_free_sample(config, images)
    assert FEWEST_IMAGES < sample.images < MOST_IMAGES
    pixels = sample.images * (48**2 + sample.views * max(config.views.sizes) ** 2)
    share = config.run.snapshots * pixels / forward_pixels(config, images)
    assert share == pytest.approx(SNAPSHOT_SHARE, rel=0.01)
    assert label_free_sample(*small(epochs=1000)) == Sample(MOST_IMAGES, MOST_VIEWS)
    assert label_free_sample(*small(epochs=2, images=600)) == Sample(FEWEST_IMAGES, FEWEST_VIEWS)
    assert label_free_images(*small(epochs=2, images=600)) == 2 * FEWEST_IMAGES * (1 + FEWEST_VIEWS)
    assert label_free_sample(*small(epochs=2, images=40)) == Sample(40, FEWEST_VIEWS)


def test_a_teacher_of_its_own_is_counted_and_one_that_is_the_student_is_not() -> None:
    config, images = small()
    (two, more), steps = config.views.crops, config.total_steps(images) * config.batch_size
    student = 3 * (two.count * two.size**2 + more.count * more.size**2)
    assert forward_pixels(config, images) == steps * student
    teacher = replace(config, target=MomentumTeacherConfig())
    assert forward_pixels(teacher, images) == steps * (student + two.count * two.size**2)


def test_a_run_keeps_the_sample_of_its_first_snapshot() -> None:
    config, images = small()
    line = {"step": 9, "label_free": {"rankme": 2.0}}
    assert sample_so_far([{"loss": 1.0}], config, images) == label_free_sample(config, images)
    assert sample_so_far([line | {"sampled": [300, 2]}, line | {"sampled": [7, 7]}], config, images) == Sample(300, 2)
    assert sample_so_far([line], config, images) == Sample(1000, 4)  # as earlier versions did
    assert sample_so_far([line | {"sampled": "damaged"}], config, 500) == Sample(500, 4)
