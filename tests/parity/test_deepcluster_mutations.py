"""DeepCluster-v2, and what it has in common with SMoG, with one thing done differently at a time: it is noticed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import coterie.grouping.objective
from coterie.grouping.groups import KMeansGroups, MomentumGroups
from coterie.grouping.memory_queue import Memory
from coterie.grouping.objective import Objective
from tests.parity.golden_files import Golden, golden
from tests.parity.mutations import Mutation, Patch, assert_caught, change_each_target, each_where_it_shows


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


def memory_stays_as_the_first_pass_left_it(patch: Patch) -> None:
    push = Memory.push
    patch.setattr(Memory, "push", lambda self, *rest: None if self.full else push(self, *rest))


def groups_found_at_the_first_refresh_only(patch: Patch) -> None:
    for kind in (KMeansGroups, MomentumGroups):

        def once(self, head, rows, starts, *tick, refit=kind.refit):
            if not self.heads[head].any():
                refit(self, head, rows, starts, *tick)

        patch.setattr(kind, "refit", once)


def labels_by_memory_position(patch: Patch) -> None:
    refresh = Objective.refresh

    def with_positions(self, progress):
        index = self.memory.index
        self.memory.index = torch.arange(len(index))
        refresh(self, progress)
        self.memory.index = index

    patch.setattr(Objective, "refresh", with_positions)


def the_view_that_made_a_label_is_excused(patch: Patch) -> None:
    change_each_target(patch, lambda target: replace(target, view=target.head % 2))  # the large views are 0 and 1


def unlabeled_images_in_the_first_group(patch: Patch) -> None:
    change_each_target(patch, lambda target: replace(target, values=target.values.clamp(min=0)))


def unlabeled_images_in_the_divisor(patch: Patch) -> None:
    loss = coterie.grouping.objective.prediction_loss

    def over_all_images(p, centers, targets, *rest):
        shares = [(each.values != -100).double().mean() for each in targets]
        each = [share * loss(p, centers, [one], *rest) for share, one in zip(shares, targets, strict=True)]
        return torch.stack(each).mean()

    patch.setattr(coterie.grouping.objective, "prediction_loss", over_all_images)


DEEPCLUSTER = golden("kmeans_starts0", "views_large")
KMEANS = DEEPCLUSTER + golden("beta", "own_labels")
SEVERAL_HEADS = [file for file in KMEANS if len(file.meta["groups"]) > 1]
BATCH_NORM = [f for f in KMEANS if any(f.meta["network"][where] for where in ("conv_bn", "head_bn", "out_bn"))]
SEVERAL_EPOCHS = [file for file in KMEANS if file.meta["epochs"] > 1]
UNLABELED = [file for file in DEEPCLUSTER if file.meta["image_visits_without_label"]]

MUTATIONS = [
    Mutation(every_head_clustered_on_the_same_memory_slot, SEVERAL_HEADS, "k-means of several heads"),
    Mutation(first_pass_encodes_both_views_together, BATCH_NORM, "k-means and batch norm"),
    Mutation(memory_stays_as_the_first_pass_left_it, KMEANS, "k-means"),
    Mutation(groups_found_at_the_first_refresh_only, SEVERAL_EPOCHS, "k-means in several epochs"),
    Mutation(labels_by_memory_position, DEEPCLUSTER, "the labels of DeepCluster-v2"),
    Mutation(the_view_that_made_a_label_is_excused, DEEPCLUSTER, "the labels of DeepCluster-v2"),
    Mutation(unlabeled_images_in_the_first_group, UNLABELED, "images without a label"),
    Mutation(unlabeled_images_in_the_divisor, UNLABELED, "images without a label"),
]


@pytest.mark.parametrize(("apply", "file"), each_where_it_shows(MUTATIONS))
def test_a_mutation_is_caught(apply: Callable[[Patch], None], file: Golden, monkeypatch: Patch) -> None:
    apply(monkeypatch)
    assert_caught(file)
