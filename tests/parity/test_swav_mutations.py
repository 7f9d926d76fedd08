"""SwAV with one thing done differently at a time: the trajectories notice it.

They are the rows of "What the trajectories tell apart" (golden/README.md) that concern SwAV.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import coterie.grouping.groups
import coterie.grouping.memory_queue
import coterie.grouping.objective
import coterie.models.encoder
from tests.parity.golden_files import Golden, golden
from tests.parity.mutations import Mutation, Patch, assert_caught, each_where_it_shows


def used_before_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coterie.grouping.memory_queue.Memory, "full", property(lambda self: self.pushed > 0))


def pushed_before_the_codes(patch: pytest.MonkeyPatch) -> None:
    forward = coterie.grouping.objective.Objective.forward

    def early(self, student, batch, progress):
        push, self.memory.push = self.memory.push, lambda *_: None

        def encode_then_push(views):
            h, z, p = student(views)
            push(z[list(self.roles.grouped_views)].detach(), batch.index, progress)
            return h, z, p

        try:
            return forward(self, encode_then_push, batch, progress)
        finally:
            del self.memory.push

    patch.setattr(coterie.grouping.objective.Objective, "forward", early)


def frozen_groups_decayed(patch: pytest.MonkeyPatch) -> None:
    def zero(self, progress):
        if progress.step < self.frozen_steps:
            for head in self.heads:
                head.grad.zero_()

    patch.setattr(coterie.grouping.groups.LearnedGroups, "after_backward", zero)


def one_pass_per_view(patch: pytest.MonkeyPatch) -> None:
    def forward(self, views):
        h = torch.stack([self.backbone(view) for view in views])
        z = self.projector(h.flatten(0, 1)).unflatten(0, h.shape[:2])
        z = nn.functional.normalize(z, dim=-1)
        return h, z, z

    patch.setattr(coterie.models.encoder.Encoder, "forward", forward)


def steps_with_a_queue(file: Golden) -> int:
    return (file.meta["epochs"] - file.meta["queue_start_epoch"]) * file.meta["steps_per_epoch"]


SWAV = golden("queue_used", "views_large")
QUEUE = [file for file in SWAV if file.meta["queue_length"]]
LONG = [f for f in QUEUE if f.meta["queue_length"] > f.meta["batch"] and steps_with_a_queue(f) > 1]
FULL = [file for file in QUEUE if file.arrays()["queue_used"].any()]
FROZEN = [file for file in SWAV if file.meta["frozen_steps"] and file.meta["optimizer"]["weight_decay"]]
BATCH_NORM = [file for file in SWAV if file.meta["network"]["conv_bn"]]

MUTATIONS = [
    Mutation(used_before_full, LONG, "a queue of more than one batch"),
    Mutation(pushed_before_the_codes, FULL, "a queue that gets full"),
    Mutation(frozen_groups_decayed, FROZEN, "frozen steps and weight decay"),
    Mutation(one_pass_per_view, BATCH_NORM, "batch norm in the backbone"),
]


@pytest.mark.parametrize(("apply", "file"), each_where_it_shows(MUTATIONS))
def test_a_mutation_is_caught(apply: Callable[[Patch], None], file: Golden, monkeypatch: Patch) -> None:
    apply(monkeypatch)
    assert_caught(file)
