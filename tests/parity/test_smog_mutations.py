"""SMoG with one thing done differently at a time: the trajectories notice it.

The first ones are the rows of "What the trajectories tell apart" (golden/README.md) that concern SMoG alone.
"""

import types
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import coterie.grouping.kmeans
import coterie.models.encoder
from coterie.grouping.groups import MomentumGroups
from coterie.grouping.kmeans import nearest_centers
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher
from coterie.models.encoder import Encoder
from coterie.optim.schedule import Linear
from coterie.types import Roles
from tests.parity.golden_files import Golden, cases, golden
from tests.parity.mutations import Mutation, Patch, assert_caught, changing, each_where_it_shows
from tests.parity.trajectory import run


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

    def without_bn_only_views(self, views, roles, h, z):
        return embed(self, views, replace(roles, bn_only_views=()), h, z)

    patch.setattr(MomentumTeacher, "embed", without_bn_only_views)


def logits_against_the_old_groups(patch: Patch) -> None:
    update = MomentumGroups.update_centers

    def update_but_return_the_old(self, z, progress):
        old = [each.clone() for each in self.centers()]
        update(self, z, progress)
        return old

    patch.setattr(MomentumGroups, "update_centers", update_but_return_the_old)


def groups_moved_by_the_targets_embeddings(patch: Patch) -> None:
    embed, update, embedded = MomentumTeacher.embed, MomentumGroups.update_centers, []

    def embed_and_keep(self, *rest):
        embedded[:] = [embed(self, *rest)]
        return embedded[0]

    patch.setattr(MomentumTeacher, "embed", embed_and_keep)
    patch.setattr(MomentumGroups, "update_centers", lambda self, z, progress: update(self, embedded[0][1], progress))


def every_head_moved_by_the_same_view(patch: Patch) -> None:
    update = MomentumGroups.update_centers
    patch.setattr(MomentumGroups, "update_centers", lambda self, z, progress: update(self, z[:1], progress))


def no_reset_of_the_target_network(patch: Patch) -> None:
    patch.setattr(MomentumTeacher, "copy_from_student", lambda self: None)


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


def labels_by_the_moved_groups(patch: Patch) -> None:
    decide, move, waiting = Objective.targets, MomentumGroups.update_centers, []

    def later(self, *rest):
        waiting.append((self, rest, []))
        return waiting[-1][-1]

    def move_then_decide(self, z, progress):
        moved = move(self, z, progress)
        objective, rest, found = waiting.pop()
        found.extend(decide(objective, *rest))
        return moved

    patch.setattr(Objective, "targets", later)
    patch.setattr(MomentumGroups, "update_centers", move_then_decide)


def memory_keeps_the_targets_embeddings(patch: Patch) -> None:
    build = Objective.__init__
    patch.setattr(Objective, "__init__", lambda *rest, **named: build(*rest, **named, rows_from="target"))


def predictor_reads_unit_rows(patch: Patch) -> None:
    through = Encoder._through

    def unit(self, head, rows):
        return through(self, head, F.normalize(rows, dim=-1) if head is self.predictor else rows)

    patch.setattr(Encoder, "_through", unit)


SMOG = golden("beta", "own_labels")
SEVERAL_EPOCHS = [file for file in SMOG if file.meta["epochs"] > 1]
SMALL_VIEWS = [file for file in SMOG if file.meta["small_views"]]
BATCH_NORM = [f for f in SMALL_VIEWS if any(f.meta["network"][where] for where in ("conv_bn", "head_bn", "out_bn"))]
JOINT = [file for file in SMALL_VIEWS if file.meta["network"]["conv_bn"]]
ODD = [file for file in SEVERAL_EPOCHS if file.meta["steps_per_epoch"] % 2]
LAGGING = [file for file in SEVERAL_EPOCHS if file.meta["encoder_momentum"]]
PREDICTOR = [file for file in SMOG if file.meta["network"]["predictor"]]
MOVING = [file for file in SMOG if min(file.meta["beta_start"], file.meta["beta_end"]) < 1]
SEVERAL_HEADS = [file for file in MOVING if len(file.meta["groups"]) > 1]
WITH_GRADIENT = [file for file in MOVING if file.meta["group_gradient"]]
WITHOUT_GRADIENT = [file for file in MOVING if not file.meta["group_gradient"]]

MUTATIONS = [
    Mutation(beta_lowered_after_use, changing(SMOG, "beta"), "a beta that changes"),
    Mutation(families_alternate_by_global_step, ODD, "several epochs with an odd number of steps"),
    Mutation(target_network_does_not_see_the_small_views, BATCH_NORM, "batch norm and small views"),
    Mutation(logits_against_the_old_groups, MOVING, "a beta below 1"),
    Mutation(groups_moved_by_the_targets_embeddings, MOVING, "a beta below 1"),
    Mutation(every_head_moved_by_the_same_view, SEVERAL_HEADS, "several heads and a beta below 1"),
    Mutation(no_reset_of_the_target_network, LAGGING, "several epochs and a target network that lags behind"),
    Mutation(groups_not_divided_by_their_norm, MOVING, "a beta below 1"),
    Mutation(backbone_batch_norm_per_resolution, JOINT, "batch norm in the backbone and small views"),
    Mutation(gradient_through_the_groups_on_instead_of_off, WITHOUT_GRADIENT, "no gradient through the groups"),
    Mutation(gradient_through_the_groups_off_instead_of_on, WITH_GRADIENT, "a gradient through the groups"),
    Mutation(memory_keeps_the_targets_embeddings, SMOG, "the arrays of SMoG"),
    Mutation(predictor_reads_unit_rows, PREDICTOR, "a predictor"),
]


@pytest.mark.parametrize(("apply", "file"), each_where_it_shows(MUTATIONS))
def test_a_mutation_is_caught(apply: Callable[[Patch], None], file: Golden, monkeypatch: Patch) -> None:
    apply(monkeypatch)
    assert_caught(file)


@pytest.mark.parametrize("file", cases("beta", "own_labels"))
def test_labels_by_the_moved_groups_are_caught(file: Golden, monkeypatch: Patch) -> None:
    """It shows only where the move of a step changes a label, which no setting tells."""
    trace = run(file)
    for step, embeddings in trace.teacher_embeddings.items():
        rows, moved = embeddings[: len(file.meta["target_views"])].flatten(0, 1), trace.groups[step]
        by_moved = [nearest_centers(rows, centers) for centers in moved]
        if not torch.equal(torch.stack(by_moved).flatten(), torch.cat([t.values for t in trace.results[step].targets])):
            break
    else:
        pytest.skip("in no step of this golden file does the move of the groups change a label")
    labels_by_the_moved_groups(monkeypatch)
    assert_caught(file)
