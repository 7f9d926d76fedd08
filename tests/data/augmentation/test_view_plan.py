import numpy as np
import pytest

from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.errors import BadConfig
from coterie.types import Progress, Roles

LARGE, SMALL = Crops(2, 224, (0.14, 1.0)), Crops(6, 96, (0.05, 0.14))


def test_views_are_numbered_over_the_groups():
    plan = ViewPlan((LARGE, SMALL, Crops(1, 64, (0.1, 0.2))))
    assert plan.num_views == 9
    assert plan.sizes == (224, 224, 96, 96, 96, 96, 96, 96, 64)


def test_by_default_the_student_sees_all_views_and_the_first_group_gives_targets():
    assert ViewPlan((LARGE, SMALL)).roles == Roles(tuple(range(8)), (0, 1), (0, 1))
    given = ViewPlan((LARGE, SMALL), student_views=(2, 3), target_views=(1,), grouped_views=(0, 2))
    assert given.roles == Roles((2, 3), (1,), (0, 2))


def family(large: int, small: int) -> tuple[Crops, ...]:
    return Crops(large, 224, (0.14, 1.0)), Crops(small, 96, (0.05, 0.14))


def test_with_two_families_the_student_sees_the_first_and_the_second_gives_targets():
    plan = ViewPlan((*family(2, 3), *family(2, 3)), swap=True)
    assert plan.roles == Roles((0, 1, 2, 3, 4), (5, 6), (0, 1), family=5)


def test_smogs_families_trade_places_by_the_step_in_the_epoch():
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
        roles = plan.roles.at(Progress(step, 5, 10))  # 5 steps per epoch: step 5 is the first of the second epoch
        if step % 5 in (0, 2, 4):
            assert roles == even
            assert roles.used == (2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15)
        else:
            assert (roles.student_views, roles.target_views, roles.grouped_views, roles.bn_only_views) == odd
            assert roles.used == (0, 1, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15)


def test_without_swap_roles_stay_and_bn_only_views_are_used():
    roles = ViewPlan((LARGE, SMALL), student_views=(0, 1), bn_only_views=(5,)).roles
    assert roles.at(Progress(1, 5, 10)) == roles
    assert roles.used == (0, 1, 5)


def test_center_crops_have_the_size_of_the_largest_views_by_default():
    assert ViewPlan((SMALL, LARGE)).center_crop_size == 224
    assert ViewPlan((LARGE, SMALL), image_size=256).center_crop_size == 256


def test_a_plan_samples_parameters_for_each_view_of_each_image():
    parameters = ViewPlan((LARGE, SMALL)).sample_parameters(seed=0, epoch=3, indices=np.array([5, 9, 2]))
    assert parameters.order.shape == (3, 8, 4)
    assert len(parameters.boxes(1, 375, 500)) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
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
            "views.swap needs two families with the same counts and sizes, but views.crops has 2x224 and ",
        ),
        ({"swap": True, "crops": (LARGE,)}, "views.swap needs two families with the same counts and sizes, but "),
        ({"swap": True, "crops": (LARGE, SMALL, SMALL, LARGE)}, "views.swap needs two families"),
        ({"swap": True, "crops": (LARGE, SMALL, LARGE)}, "views.swap needs two families"),
    ],
)
def test_an_invalid_plan_is_refused(settings, message):
    with pytest.raises(BadConfig) as error:
        ViewPlan(**({"crops": (LARGE, SMALL)} | settings))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
