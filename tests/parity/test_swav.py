"""SwAV against the release, step by step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import coterie.grouping.groups
import coterie.grouping.memory_queue
import coterie.grouping.objective
import coterie.models.encoder
from tests.parity.conftest import Golden, cases
from tests.parity.trajectory import golden_names, newest_batch_first, run

SWAV = cases("queue_used", "views_large")


@pytest.mark.parametrize("file", SWAV)
def test_every_number_of_the_trajectory(file: Golden) -> None:
    arrays, meta = file.tensors(), file.meta
    trace = run(file)
    file.close(torch.tensor(trace.losses, dtype=torch.float64), arrays["loss"])
    assert trace.memory_used == arrays["queue_used"].tolist()
    for step in meta["probe_steps"]:
        for kind, ours in (("param", trace.parameters), ("grad", trace.gradients)):
            theirs = {k.split("/")[-1]: v for k, v in arrays.items() if k.startswith(f"probe/{step}/{kind}/")}
            assert ours[step].keys() == theirs.keys()  # a frozen group has no gradient at all
            for name, value in theirs.items():
                file.close(ours[step][name], value)
        result = trace.results[step]
        file.close(result.z.flatten(0, 1), arrays[f"probe/{step}/z"])
        file.close(torch.stack([target.values for target in result.targets]), arrays[f"probe/{step}/codes"])
        if f"probe/{step}/queue_before" in arrays:
            file.close(trace.memories[step], arrays[f"probe/{step}/queue_before"])
    state = trace.student.encoder.state_dict()
    for ours, theirs in golden_names(trace.student.encoder).items():
        key = f"final/{theirs}" if f"final/{theirs}" in arrays else f"final_buffers/{theirs}"
        file.close(state[ours], arrays[key])
    file.close(trace.student.groups.centers()[0].detach(), arrays["final/groups0_unit"])
    if "final_queue" in arrays:
        memory = trace.objective.memory
        file.close(newest_batch_first(memory.rows, memory.pushed, meta["batch"]), arrays["final_queue"])


@pytest.mark.parametrize("file", SWAV)
def test_float32_stays_near(file: Golden) -> None:
    theirs = file.tensors()["loss"]
    ours = torch.tensor(run(file, torch.float32).losses, dtype=torch.float64)
    file.close(ours[0], theirs[0], 1e-5)
    file.close(ours, theirs, 1e-3)


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


@pytest.mark.parametrize(
    "mutate", [used_before_full, pushed_before_the_codes, frozen_groups_decayed, one_pass_per_view]
)
def test_a_mutation_is_caught(mutate: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of "What the trajectories tell apart" that concerns SwAV moves a loss far beyond the tolerance."""
    caught = []
    mutate(monkeypatch)
    for file in (each.values[0] for each in SWAV if each.values[0] is not None):
        if mutate is one_pass_per_view and not file.meta["network"]["conv_bn"]:
            continue
        if mutate is not one_pass_per_view and not file.meta["queue_length"]:
            continue
        difference = torch.tensor(run(file).losses, dtype=torch.float64) - file.tensors()["loss"]
        caught.append(difference.abs().max().item())
    if not caught:
        pytest.skip("no golden file here shows this")
    assert min(caught) > 1e-3
