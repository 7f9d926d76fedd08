"""One thing done differently at a time: each moves a loss far beyond the tolerance, so the trajectories would show it."""

import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import coterie.grouping.kmeans
import coterie.grouping.objective
import coterie.models.encoder
from coterie.grouping.assignment import Centered
from coterie.grouping.groups import KMeansGroups, LearnedGroups, MomentumGroups
from coterie.grouping.memory_queue import Memory
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork
from coterie.models.encoder import Encoder
from coterie.optim.schedule import Linear
from coterie.types import Roles, Target
from tests.parity.conftest import Golden, golden
from tests.parity.trajectory import run

Patch = pytest.MonkeyPatch


def _change_each_target(patch: Patch, change: Callable[[Target], Target]) -> None:
    loss = coterie.grouping.objective.prediction_loss

    def with_others(p, centers, targets, *rest):
        return loss(p, centers, [change(target) for target in targets], *rest)

    patch.setattr(coterie.grouping.objective, "prediction_loss", with_others)


# ---- The rows of "What the trajectories tell apart" (README of the golden files) that concern SMoG, in their order.


def beta_lowered_after_use(patch: Patch) -> None:
    at = Linear.at
    patch.setattr(Linear, "at", lambda self, progress: at(self, replace(progress, step=progress.step - 1)))


def families_alternate_by_global_step(patch: Patch) -> None:
    at = Roles.at

    def in_one_long_epoch(self, progress):
        return at(self, replace(progress, steps_per_epoch=progress.total_steps))

    patch.setattr(Roles, "at", in_one_long_epoch)


def target_network_does_not_see_the_small_views(patch: Patch) -> None:
    embed = MomentumTeacher.embed

    def without_companions(self, views, roles, h, z):
        return embed(self, views, replace(roles, bn_only_views=()), h, z)

    patch.setattr(MomentumTeacher, "embed", without_companions)


def logits_against_the_old_groups(patch: Patch) -> None:
    move = MomentumGroups.move

    def move_but_give_the_old(self, z, progress):
        old = [each.clone() for each in self.centers()]
        move(self, z, progress)
        return old

    patch.setattr(MomentumGroups, "move", move_but_give_the_old)


def groups_moved_by_the_targets_embeddings(patch: Patch) -> None:
    embed, move, decided = MomentumTeacher.embed, MomentumGroups.move, []

    def embed_and_keep(self, *rest):
        decided[:] = [embed(self, *rest)]
        return decided[0]

    patch.setattr(MomentumTeacher, "embed", embed_and_keep)
    patch.setattr(MomentumGroups, "move", lambda self, z, progress: move(self, decided[0][1], progress))


def every_head_moved_by_the_same_view(patch: Patch) -> None:
    move = MomentumGroups.move
    patch.setattr(MomentumGroups, "move", lambda self, z, progress: move(self, z[:1], progress))


def every_head_clustered_on_the_same_memory_slot(patch: Patch) -> None:
    refresh = Objective.refresh

    def with_one_slot(self, progress):
        rows = self.memory.rows
        self.memory.rows = rows[:1]
        refresh(self, progress)
        self.memory.rows = rows

    patch.setattr(Objective, "refresh", with_one_slot)


def first_pass_encodes_both_views_together(patch: Patch) -> None:
    @torch.no_grad()
    def fill(self, student, batches):
        for progress, batch in batches:
            self.memory.push(student([batch.views[v] for v in self.roles.grouped_views])[1], batch.index, progress)

    patch.setattr(Objective, "fill", fill)


def no_reset_of_the_target_network(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "catch_up", lambda self: None)


def groups_not_divided_by_their_norm(patch: Patch) -> None:
    moved_centers = coterie.grouping.kmeans.moved_centers

    def without_normalize(*rest):
        with Patch.context() as inner:
            inner.setattr(coterie.grouping.kmeans, "F", types.SimpleNamespace(normalize=lambda rows, dim: rows))
            return moved_centers(*rest)

    patch.setattr("coterie.grouping.groups.moved_centers", without_normalize)


def backbone_batch_norm_per_resolution(patch: Patch) -> None:
    def per_resolution(backbone, batches, _):
        return [backbone(batch) for batch in batches]

    patch.setattr(coterie.models.encoder, "joint_features", per_resolution)


def gradient_through_the_groups_on_instead_of_off(patch: Patch) -> None:
    build = MomentumGroups.__init__
    patch.setattr(MomentumGroups, "__init__", lambda self, *rest, gradient: build(self, *rest, gradient=True))


def gradient_through_the_groups_off_instead_of_on(patch: Patch) -> None:
    build = MomentumGroups.__init__
    patch.setattr(MomentumGroups, "__init__", lambda self, *rest, gradient: build(self, *rest, gradient=False))


# ---- More of our own: SMoG.


def labels_by_the_moved_groups(patch: Patch) -> None:
    decide, move, waiting = Objective.targets, MomentumGroups.move, []

    def later(self, *rest):
        waiting.append((self, rest, []))
        return waiting[-1][-1]

    def move_then_decide(self, z, progress):
        moved = move(self, z, progress)
        objective, rest, found = waiting.pop()
        found.extend(decide(objective, *rest))
        return moved

    patch.setattr(Objective, "targets", later)
    patch.setattr(MomentumGroups, "move", move_then_decide)


def memory_keeps_the_targets_embeddings(patch: Patch) -> None:
    build = Objective.__init__
    patch.setattr(Objective, "__init__", lambda *rest, **named: build(*rest, **named, rows_from="target"))


def predictor_reads_unit_rows(patch: Patch) -> None:
    through = Encoder._through

    def unit(self, head, rows):
        return through(self, head, F.normalize(rows, dim=-1) if head is self.predictor else rows)

    patch.setattr(Encoder, "_through", unit)


# ---- DeepCluster-v2, and what it has in common with SMoG.


def memory_stays_as_the_first_pass_left_it(patch: Patch) -> None:
    push = Memory.push
    patch.setattr(Memory, "push", lambda self, *rest: None if self.full else push(self, *rest))


def groups_found_at_the_first_refresh_only(patch: Patch) -> None:
    refit = KMeansGroups.refit

    def once(self, head, rows, starts):
        if not self.heads[head].any():
            refit(self, head, rows, starts)

    patch.setattr(KMeansGroups, "refit", once)


def labels_by_memory_position(patch: Patch) -> None:
    refresh = Objective.refresh

    def with_positions(self, progress):
        index = self.memory.index
        self.memory.index = torch.arange(len(index))
        refresh(self, progress)
        self.memory.index = index

    patch.setattr(Objective, "refresh", with_positions)


def the_view_that_made_a_label_is_excused(patch: Patch) -> None:
    _change_each_target(patch, lambda target: replace(target, view=target.head % 2))  # the large views are 0 and 1


def unlabeled_images_in_the_first_group(patch: Patch) -> None:
    _change_each_target(patch, lambda target: replace(target, values=target.values.clamp(min=0)))


def unlabeled_images_in_the_divisor(patch: Patch) -> None:
    loss = coterie.grouping.objective.prediction_loss

    def over_all_images(p, centers, targets, *rest):
        shares = [(each.values != -100).double().mean() for each in targets]
        each = [share * loss(p, centers, [one], *rest) for share, one in zip(shares, targets, strict=True)]
        return torch.stack(each).mean()

    patch.setattr(coterie.grouping.objective, "prediction_loss", over_all_images)


# ---- Momentum teachers of SwAV and DINO.


def target_view_not_excused(patch: Patch) -> None:
    _change_each_target(patch, lambda target: replace(target, view=None))


def both_target_views_balanced_together(patch: Patch) -> None:
    assign = coterie.grouping.objective.assign

    def together(assignment, seen, *rest, last):
        return assign(assignment, seen.flatten(0, 1), *rest).unflatten(0, seen.shape[:2])[:, -last:]

    patch.setattr(coterie.grouping.objective, "assign", together)


def student_decides(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "embed", lambda self, *rest: SameNetwork().embed(*rest))


def teacher_does_not_move(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "after_step", lambda self, progress: None)


def teacher_moves_before_the_student_looks(patch: Patch) -> None:
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
    assign, observe = coterie.grouping.objective.assign, Centered.update_statistics

    def observe_first(assignment, seen, progress, head, **named):
        observe(assignment, seen, head)
        return assign(assignment, seen, progress, head, **named)

    patch.setattr(coterie.grouping.objective, "assign", observe_first)
    patch.setattr(Centered, "observe", lambda self, seen, head: None)


def center_does_not_move(patch: Patch) -> None:
    patch.setattr(Centered, "observe", lambda self, seen, head: None)


def center_moved_by_one_view(patch: Patch) -> None:
    observe = Centered.update_statistics
    patch.setattr(Centered, "observe", lambda self, seen, head: observe(self, seen[:1], head))


def target_temperature_stays(patch: Patch) -> None:
    at = Centered.temperature_at
    patch.setattr(Centered, "temperature_at", lambda self, progress: at(self, replace(progress, step=0)))


# ---- Where each of them shows.

SMOG = golden("beta", "own_labels")
DEEPCLUSTER = golden("kmeans_starts0", "views_large")
TEACHER = golden("encoder_momentum", "views_large")
CENTERED = golden("encoder_momentum", "views_large", "center")

SEVERAL_HEADS = [file for file in SMOG + DEEPCLUSTER if len(file.meta["groups"]) > 1]
BATCH_NORM = [file for file in SMOG + DEEPCLUSTER if file.meta["network"]["head_bn"] or file.meta["network"]["conv_bn"]]
UNLABELED = [file for file in DEEPCLUSTER if file.meta["image_visits_without_label"]]
BALANCED = [file for file in TEACHER if "epsilon" in file.meta]
OWN_GROUPS = [file for file in TEACHER if file.meta["target_groups"] == "moving_average"]


def rising(files: list[Golden], name: str) -> list[Golden]:
    """Those files where the array of one value a step is not constant."""
    return [file for file in files if len(set(file.arrays()[name].tolist())) > 1]


MUTATIONS: dict[Callable[[Patch], None], list[Golden]] = {
    beta_lowered_after_use: rising(SMOG, "beta"),
    families_alternate_by_global_step: [f for f in SMOG if f.meta["steps_per_epoch"] % 2 and f.meta["epochs"] > 1],
    target_network_does_not_see_the_small_views: [f for f in SMOG if f in BATCH_NORM and f.meta["small_views"]],
    logits_against_the_old_groups: SMOG,
    groups_moved_by_the_targets_embeddings: SMOG,
    every_head_moved_by_the_same_view: [f for f in SMOG if f in SEVERAL_HEADS],
    every_head_clustered_on_the_same_memory_slot: SEVERAL_HEADS,
    first_pass_encodes_both_views_together: BATCH_NORM,
    no_reset_of_the_target_network: SMOG,
    groups_not_divided_by_their_norm: SMOG,
    backbone_batch_norm_per_resolution: [f for f in SMOG if f.meta["network"]["conv_bn"] and f.meta["small_views"]],
    gradient_through_the_groups_on_instead_of_off: [f for f in SMOG if not f.meta["group_gradient"]],
    gradient_through_the_groups_off_instead_of_on: [f for f in SMOG if f.meta["group_gradient"]],
    labels_by_the_moved_groups: SMOG,
    memory_keeps_the_targets_embeddings: SMOG,
    predictor_reads_unit_rows: SMOG,
    memory_stays_as_the_first_pass_left_it: SMOG + DEEPCLUSTER,
    groups_found_at_the_first_refresh_only: SMOG + DEEPCLUSTER,
    labels_by_memory_position: DEEPCLUSTER,
    the_view_that_made_a_label_is_excused: DEEPCLUSTER,
    unlabeled_images_in_the_first_group: UNLABELED,
    unlabeled_images_in_the_divisor: UNLABELED,
    target_view_not_excused: TEACHER,
    both_target_views_balanced_together: BALANCED,
    student_decides: TEACHER,
    teacher_does_not_move: TEACHER,
    teacher_moves_before_the_student_looks: rising(TEACHER, "encoder_momentum"),
    teacher_moves_before_the_optimizer: TEACHER,
    teachers_groups_normalized: OWN_GROUPS,
    teacher_uses_the_students_groups: OWN_GROUPS,
    frozen_groups_learn: [file for file in TEACHER if file.meta["frozen_steps"]],
    center_moved_before_use: CENTERED,
    center_does_not_move: CENTERED,
    center_moved_by_one_view: CENTERED,
    target_temperature_stays: rising(CENTERED, "target_temperature"),
}


def each_where_it_shows() -> Iterator[Any]:
    for mutate, files in MUTATIONS.items():
        for file in files:
            yield pytest.param(mutate, file, id=f"{mutate.__name__}-{file.id}")
        if not files:
            missing = pytest.mark.skip("no golden file here shows this")
            yield pytest.param(mutate, None, id=f"{mutate.__name__}-none", marks=missing)


def largest_change_of_the_loss(file: Golden) -> float:
    losses = torch.tensor(run(file).losses, dtype=torch.float64)
    return (losses - file.tensors()["loss"]).abs().max().item()


@pytest.mark.parametrize("file", [pytest.param(file, id=file.id) for file in SMOG + DEEPCLUSTER + TEACHER])
def test_without_a_mutation_no_loss_changes(file: Golden) -> None:
    assert largest_change_of_the_loss(file) < 1e-9


@pytest.mark.parametrize(("mutate", "file"), each_where_it_shows())
def test_a_mutation_is_caught(mutate: Callable[[Patch], None], file: Golden, monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    # The momentum of two neighboring steps is almost the same: that one mutation shows less, yet far above 1e-9.
    assert largest_change_of_the_loss(file) > (1e-4 if mutate is teacher_moves_before_the_student_looks else 1e-3)
