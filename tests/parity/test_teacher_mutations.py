"""Momentum teachers of SwAV and DINO with one thing done differently at a time: the trajectories notice it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch.nn import functional as F

import coterie.grouping.objective
from coterie.grouping.assignment import Centered
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork
from tests.parity.golden_files import Golden, golden
from tests.parity.mutations import (
    Mutation,
    Patch,
    assert_caught,
    change_each_target,
    changing,
    each_where_it_shows,
    within,
)


def target_view_not_excused(patch: Patch) -> None:
    change_each_target(patch, lambda target: replace(target, view=None))


def both_target_views_balanced_together(patch: Patch) -> None:
    assign = coterie.grouping.objective.assign

    def together(assignment, seen, *rest, last):
        return assign(assignment, seen.flatten(0, 1), *rest).unflatten(0, seen.shape[:2])[:, -last:]

    patch.setattr(coterie.grouping.objective, "assign", together)


def student_decides(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "embed", lambda self, *rest: SameNetwork().embed(*rest))


def teacher_does_not_move(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "after_step", lambda self, progress: None)


def teacher_moves_before_the_student_encodes(patch: Patch) -> None:
    """The same teacher, moved with the momentum of the next step."""
    build = MomentumTeacher.__init__

    def moving_first(*rest, momentum, before):
        build(*rest, momentum=momentum, before=not before)

    patch.setattr(MomentumTeacher, "__init__", moving_first)


def teacher_moves_before_the_optimizer(patch: Patch) -> None:
    after_backward, move = Objective.after_backward, MomentumTeacher.after_step

    def then_move(self, progress):
        after_backward(self, progress)
        move(self.target, progress)

    patch.setattr(Objective, "after_backward", then_move)
    patch.setattr(MomentumTeacher, "after_step", lambda self, progress: None)


def teachers_groups_normalized(patch: Patch) -> None:
    after = MomentumTeacher.after_step

    def normalizing(self, progress):
        after(self, progress)
        for head in self.heads:
            head.copy_(F.normalize(head, dim=1))

    patch.setattr(MomentumTeacher, "after_step", normalizing)


def teacher_uses_the_students_groups(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "centers", lambda self, groups: groups.centers())


def frozen_groups_learn(patch: Patch) -> None:
    patch.setattr(LearnedGroups, "after_backward", lambda self, progress: None)


def center_moved_before_use(patch: Patch) -> None:
    assign, update = coterie.grouping.objective.assign, Centered.update_statistics

    def update_first(assignment, seen, progress, head, **named):
        update(assignment, seen, head)
        return assign(assignment, seen, progress, head, **named)

    patch.setattr(coterie.grouping.objective, "assign", update_first)
    patch.setattr(Centered, "update_statistics", lambda self, seen, head: None)


def center_does_not_move(patch: Patch) -> None:
    patch.setattr(Centered, "update_statistics", lambda self, seen, head: None)


def center_moved_by_one_view(patch: Patch) -> None:
    update = Centered.update_statistics
    patch.setattr(Centered, "update_statistics", lambda self, seen, head: update(self, seen[:1], head))


def target_temperature_stays(patch: Patch) -> None:
    at = Centered.temperature_at
    patch.setattr(Centered, "temperature_at", lambda self, progress: at(self, replace(progress, step=0)))


def learn_groups_of_their_own(file: Golden) -> bool:
    return file.meta["target_groups"] == "moving_average" and file.meta["frozen_steps"] < len(file.arrays()["loss"]) - 1


TEACHER = golden("encoder_momentum", "views_large")
SEVERAL_TARGETS = [file for file in TEACHER if len(file.meta["target_views"]) > 1]
BALANCED = [file for file in SEVERAL_TARGETS if "epsilon" in file.meta]
FOLLOWING = within(TEACHER, "encoder_momentum", -1, 1)
LAGGING = within(TEACHER, "encoder_momentum", 0, 2)
AVERAGED_GROUPS = [f for f in within(TEACHER, "encoder_momentum", 0, 1) if learn_groups_of_their_own(f)]
OWN_GROUPS = [file for file in LAGGING if learn_groups_of_their_own(file)]
FROZEN = [file for file in TEACHER if file.meta["frozen_steps"]]
CENTERED = [file for file in TEACHER if file.meta.get("center_momentum", 1) < 1]
ACROSS_VIEWS = [file for file in CENTERED if file in SEVERAL_TARGETS]

MUTATIONS = [
    Mutation(target_view_not_excused, TEACHER, "a momentum teacher"),
    Mutation(both_target_views_balanced_together, BALANCED, "a momentum teacher, several target views, balanced codes"),
    Mutation(student_decides, LAGGING, "a momentum teacher that lags behind"),
    Mutation(teacher_does_not_move, FOLLOWING, "a momentum teacher that moves"),
    Mutation(
        teacher_moves_before_the_student_encodes, changing(TEACHER, "encoder_momentum"), "a momentum that changes"
    ),
    Mutation(teacher_moves_before_the_optimizer, FOLLOWING, "a momentum teacher that moves"),
    Mutation(teachers_groups_normalized, AVERAGED_GROUPS, "a teacher with groups of its own that learn"),
    Mutation(teacher_uses_the_students_groups, OWN_GROUPS, "a teacher with groups of its own that learn"),
    Mutation(frozen_groups_learn, FROZEN, "a momentum teacher and frozen steps"),
    Mutation(center_moved_before_use, CENTERED, "a center that moves"),
    Mutation(center_does_not_move, CENTERED, "a center that moves"),
    Mutation(center_moved_by_one_view, ACROSS_VIEWS, "a center that moves and several target views"),
    Mutation(target_temperature_stays, changing(CENTERED, "target_temperature"), "a target temperature that changes"),
]


@pytest.mark.parametrize(("apply", "file"), each_where_it_shows(MUTATIONS))
def test_a_mutation_is_caught(apply: Callable[[Patch], None], file: Golden, monkeypatch: Patch) -> None:
    apply(monkeypatch)
    assert_caught(file)
