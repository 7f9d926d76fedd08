"""Automatic values follow from images and requests, and each has a reason."""

import pytest

from coterie.config.facts import Facts
from coterie.config.overrides import known_paths
from coterie.config.toml import from_dict, to_dict
from coterie.grouping.groups import LearnedGroupsConfig
from coterie.grouping.memory_queue import Refresh
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS

CIFAR = Facts(images=50_000, side=32)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("facts", [CIFAR, Facts(1_281_167, 375)])
def test_every_reason_belongs_to_a_setting(name: str, facts: Facts) -> None:
    planner = Planner(facts)
    settings = to_dict(METHODS[name](planner))
    assert planner.reasons
    assert set(planner.reasons) <= set(known_paths(settings)), "a reason without a setting"
    assert all("\n" not in reason and reason for reason in planner.reasons.values())


def test_the_value_that_is_returned_is_the_one_that_the_reason_is_for() -> None:
    planner = Planner(CIFAR, epochs=10)
    config = METHODS["swav"](planner)
    assert planner.reasons["epochs"] == "requested"
    assert config.epochs == 10
    assert "requested" not in planner.reasons["groups.counts"]


def test_a_short_run_gets_fewer_groups_and_few_images_fewer_still() -> None:
    long, short, few = Planner(CIFAR), Planner(CIFAR, epochs=5), Planner(Facts(400, 32))
    assert long.groups() == (500,)
    assert short.groups() == (120,)
    assert few.groups(heads=3) == (20, 20, 20)
    assert "no more than 250000 images seen" in short.reasons["groups.counts"]


def test_the_queue_gives_two_rows_a_group_and_is_left_out_where_the_batch_has_them() -> None:
    assert Planner(CIFAR, batch_size=256).queue(100) == 0
    assert Planner(CIFAR, batch_size=256).queue(500) == 768  # with the batch, 1024 rows


def test_a_batch_alone_balances_eight_groups_for_each_of_its_images() -> None:
    planner = Planner(CIFAR, batch_size=32)
    assert from_dict(to_dict(METHODS["smog"](planner))).groups.counts == (256,)
    assert planner.reasons["groups.counts"] == "8 for each image of a batch, which balances them"
    assert Planner(CIFAR).groups_of_batch() == (500,)


@pytest.mark.parametrize(("images", "batch"), [(20, 20), (100, 32), (10_000, 128), (1_000_000, 256)])
def test_batches_leave_enough_steps(images: int, batch: int) -> None:
    assert Planner(Facts(images, 32)).batch_size() == batch


def test_published_values_are_not_planned() -> None:
    planner = Planner(Facts(1_281_167, 375))
    config = METHODS["smog_imagenet"](planner)
    assert (config.epochs, config.batch_size, config.backbone.name) == (400, 4096, "resnet50")
    assert {planner.reasons[path] for path in ("epochs", "batch_size", "backbone.name")} == {"as published"}


def test_labels_last_an_epoch_or_240_steps_but_no_more_than_a_quarter_of_the_run() -> None:
    assert Planner(Facts(1_281_167, 375)).label_epochs() == 1
    assert Planner(Facts(10_000, 32), epochs=43).label_epochs() == 4  # of 78 steps
    assert Planner(Facts(10_000, 32), epochs=8).label_epochs() == 2
    assert Planner(Facts(400, 32), epochs=3).label_epochs() == 1
    planner = Planner(Facts(10_000, 32))
    assert METHODS["sela_v2"](planner).refresh == Refresh(labels=True, every_epochs=4)
    assert "312 steps" in planner.reasons["refresh.every_epochs"]


def test_a_single_pass_is_not_over_before_its_groups_move_and_its_queue_fills() -> None:
    def planned(epochs: int | None) -> tuple[int, int]:
        config = METHODS["swav"](Planner(Facts(images=1_000_000, side=256), epochs=epochs))
        assert config.memory is not None
        assert isinstance(config.groups, LearnedGroupsConfig)
        return config.groups.frozen_steps, config.memory.start_epoch

    assert planned(None) == planned(20) == (3906, 1)  # an epoch, as published
    assert planned(10) == (1953, 1)
    assert planned(1) == (195, 0)
