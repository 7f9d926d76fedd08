import dataclasses

import numpy as np
import pytest

from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.errors import BadConfig
from coterie.types import Progress, Roles

LARGE, SMALL = Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14))


def test_views_are_numbered_through_the_groups():
    plan = ViewPlan((LARGE, SMALL, Crops(1, 64, (0.1, 0.2))))
    assert plan.num_views == 9
    assert plan.sizes == (224, 224, 96, 96, 96, 96, 96, 96, 64)


def test_unless_told_the_student_sees_all_and_the_first_group_decides():
    assert ViewPlan((LARGE, SMALL)).roles == Roles(tuple(range(8)), (0, 1), (0, 1))
    told = ViewPlan((LARGE, SMALL), student_views=(2, 3), target_views=(1,), grouped_views=(0, 2))
    assert told.roles == Roles((2, 3), (1,), (0, 2))


def family(large: int, small: int) -> tuple[Crops, ...]:
    return Crops(large, 224, (0.14, 1.0)), Crops(small, 96, (0.05, 0.14))


def test_with_two_families_the_student_sees_the_first_and_the_second_decides():
    plan = ViewPlan((*family(2, 3), *family(2, 3)), swap=True)
    assert plan.roles == Roles((0, 1, 2, 3, 4), (5, 6), (0, 1), family=5)


def test_smogs_views_change_places_by_the_step_in_the_epoch():
    plan = ViewPlan(
        (*family(4, 4), *family(4, 4)),
        student_views=(2, 3, 4, 5, 6, 7),
        target_views=(8, 9),
        bn_only_views=(12, 13, 14, 15),
        grouped_views=(2, 3),
        swap=True,
    )
    even = Roles((2, 3, 4, 5, 6, 7), (8, 9), (2, 3), (12, 13, 14, 15), family=8)
    odd = ((10, 11, 12, 13, 14, 15), (0, 1), (10, 11), (4, 5, 6, 7))
    for step in range(10):
        roles = plan.roles.at(Progress(step, 5, 10))  # 5 steps an epoch: step 5 is the first of the second
        if step % 5 in (0, 2, 4):
            assert roles == even
            assert roles.used == (2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15)
        else:
            assert (roles.student_views, roles.target_views, roles.grouped_views, roles.bn_only_views) == odd
            assert roles.used == (0, 1, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15)


def test_without_swap_nothing_changes_places_and_companions_are_used_too():
    roles = ViewPlan((LARGE, SMALL), student_views=(0, 1), bn_only_views=(5,)).roles
    assert roles.at(Progress(1, 5, 10)) == roles
    assert roles.used == (0, 1, 5)


def test_the_defaults_of_augmentation_are_swavs():
    assert dataclasses.astuple(Augmentation()) == (0.5, 0, 0, 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.5, (0.1, 2.0), 0)


def test_a_plan_draws_for_each_view_of_each_image():
    draws = ViewPlan((LARGE, SMALL)).sample_parameters(seed=0, epoch=3, indices=np.array([5, 9, 2]))
    assert draws.order.shape == (3, 8, 4)
    assert len(draws.boxes(1, 375, 500)) == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"flip": 1.5}, "augmentation.flip cannot be 1.5; it is a probability: give a number from 0 to 1"),
        ({"blur": -0.1}, "augmentation.blur cannot be -0.1"),
        ({"solarize": float("nan")}, "augmentation.solarize cannot be nan"),
        ({"brightness": -1.0}, "augmentation.brightness cannot be -1.0"),
        ({"saturation": float("inf")}, "augmentation.saturation cannot be inf"),
        ({"hue": 0.6}, "augmentation.hue cannot be 0.6; it is a share of the color circle"),
        ({"blur_radius": (2.0, 0.1)}, "augmentation.blur_radius cannot be (2.0, 0.1)"),
        ({"blur_radius": (0.0, 1.0)}, "augmentation.blur_radius cannot be (0.0, 1.0)"),
    ],
)
def test_an_augmentation_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(BadConfig) as error:
        Augmentation(**settings)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "crops.count cannot be 0"),
        ({"size": 0}, "crops.size cannot be 0"),
        ({"scale": (0.5, 0.1)}, "crops.scale cannot be (0.5, 0.1); it is a range: give two numbers"),
        ({"scale": (0.5, 1.1)}, "crops.scale cannot be (0.5, 1.1)"),
        ({"ratio": (0.0, 1.0)}, "crops.ratio cannot be (0.0, 1.0)"),
    ],
)
def test_crops_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises(BadConfig) as error:
        Crops(**({"count": 2, "size": 224, "scale": (0.14, 1.0)} | settings))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crops": ()}, "views.crops is empty"),
        ({"channels": 0}, "views.channels cannot be 0"),
        ({"mean": (0.5, 0.5, 0.5)}, "views.mean and views.std go together"),
        ({"mean": (0.5,), "std": (0.2,)}, "views.mean is (0.5,): give 3 numbers"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.0, 0.2)}, "views.std is (0.2, 0.0, 0.2): give numbers above 0"),
        ({"student_views": ()}, "views.student_views is ()"),
        ({"target_views": (0, 8)}, "views.target_views is (0, 8): give views from 0 to 7, each once"),
        ({"grouped_views": (1, 1)}, "views.grouped_views is (1, 1)"),
        ({"target_views": (-1,)}, "views.target_views is (-1,)"),
        ({"bn_only_views": (2, 8)}, "views.bn_only_views is (2, 8): give views from 0 to 7, each once"),
        ({"bn_only_views": (2, 2)}, "views.bn_only_views is (2, 2)"),
        (
            {"swap": True},
            "views.swap wants two families with the same counts and sizes, but views.crops has 2x224 and ",
        ),
        ({"swap": True, "crops": (LARGE,)}, "views.swap wants two families with the same counts and sizes, but "),
        ({"swap": True, "crops": (LARGE, SMALL, SMALL, LARGE)}, "views.swap wants two families"),
        ({"swap": True, "crops": (LARGE, SMALL, LARGE)}, "views.swap wants two families"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(settings, said):
    with pytest.raises(BadConfig) as error:
        ViewPlan(**({"crops": (LARGE, SMALL)} | settings))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
