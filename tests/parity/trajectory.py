"""A golden trajectory run by the product's own parts, every setting of them read from the file.

Only the batches, the tiny backbone, the start rows of k-means and plain SGD come from here.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import coterie.grouping.groups
import coterie.grouping.objective
from coterie.grouping.assignment import Assignment, Centered, Nearest, Sinkhorn
from coterie.grouping.groups import KMeansGroups, LearnedGroups, MomentumGroups
from coterie.grouping.kmeans import spherical_kmeans
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork
from coterie.models.encoder import target_copy
from coterie.optim.schedule import Constant, Cosine, Linear, Schedule
from coterie.training.loop import StepHook, fit
from coterie.training.student import Student
from coterie.types import Batch, Progress, Roles
from tests.parity.golden_files import Golden
from tests.parity.network import tiny_encoder
from tests.parity.trace import Trace, record

PUBLISHED_ROUNDS = 10
"""Of k-means in DeepCluster-v2 and SMoG; the product's groups have no setting for it."""

VIEWS = ("family_a_large", "family_a_small", "family_b_large", "family_b_small", "views_large", "views_small")


def run(
    file: Golden,
    dtype: torch.dtype = torch.float64,
    arrays: dict[str, Tensor] | None = None,
    device: torch.device | None = None,
    watch: Sequence[StepHook] = (),
) -> Trace:
    """Train as the file describes, from its arrays or from these in their place, and record every step.

    ``watch``: called after each step, and may end the run by an exception.
    """
    meta, arrays = file.meta, file.tensors() if arrays is None else arrays
    check_sizes(meta, arrays)
    student, objective = (part.to(device) for part in parts_of(meta, arrays, dtype))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0, **sgd_settings(meta))
    trace = record(student, objective, optimizer, meta["batch"])

    def starts_of_the_file(rows: int, count: int, seed: int, step: int, head: int) -> Tensor:
        return arrays[f"kmeans_starts{head}"][step // meta["steps_per_epoch"]].to(device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coterie.grouping.objective, "random_starts", starts_of_the_file)
        if meta.get("kmeans_iterations", PUBLISHED_ROUNDS) != PUBLISHED_ROUNDS:
            rounds = functools.partial(spherical_kmeans, iterations=meta["kmeans_iterations"])
            patch.setattr(coterie.grouping.groups, "spherical_kmeans", rounds)
        fit(
            student,
            objective,
            moved(batches(arrays, meta, dtype), device),
            optimizer,
            lambda progress: arrays["lr"][progress.step].item(),
            fill_batches=lambda: moved(first_pass(arrays, meta, dtype), device),
            on_step_end=[trace.after_step, *watch],
        )
    return trace


def check_sizes(meta: dict, arrays: dict[str, Tensor]) -> None:
    """The sizes that the file states are those of its arrays."""
    steps, batch = arrays["index"].shape
    assert batch == meta["batch"]
    assert meta["steps_per_epoch"] == meta["images"] // batch
    assert steps == meta["epochs"] * meta["steps_per_epoch"]
    for name in VIEWS:
        if name in arrays:
            assert arrays[name].shape[1] == meta["large_views" if name.endswith("large") else "small_views"]


def sgd_settings(meta: dict) -> dict[str, Any]:
    settings = dict(meta["optimizer"])
    assert settings.pop("kind") == "sgd"
    return settings


def roles_of(meta: dict) -> Roles:
    views = meta["large_views"] + meta["small_views"]
    targets = tuple(meta["target_views"])
    if "student_large_views" not in meta:
        return Roles(tuple(range(views)), targets, targets)
    grouped, small = tuple(meta["student_large_views"]), range(meta["large_views"], views)
    target_views, bn_only_views = (tuple(views + view for view in each) for each in (targets, small))
    return Roles((*grouped, *small), target_views, grouped, bn_only_views, family=views)


def batches(arrays: dict[str, Tensor], meta: dict, dtype: torch.dtype) -> Iterator[tuple[Progress, Batch]]:
    total = len(arrays["index"])
    for step in range(total):
        progress = Progress(step, meta["steps_per_epoch"], total)
        assert (progress.epoch, progress.step) == (int(arrays["epoch"][step]), int(arrays["step"][step]))
        views = [view.to(dtype) for name in VIEWS if name in arrays for view in arrays[name][step]]
        yield progress, Batch(arrays["index"][step], dict(enumerate(views)))


def first_pass(arrays: dict[str, Tensor], meta: dict, dtype: torch.dtype) -> Iterator[tuple[Progress, Batch]]:
    grouped = roles_of(meta).grouped_views
    for step, index in enumerate(arrays["init_index"]):
        views = {v: arrays["init_views_large"][step][slot].to(dtype) for slot, v in enumerate(grouped)}
        yield Progress(step, meta["steps_per_epoch"], len(arrays["index"])), Batch(index, views)


def moved(shown: Iterator[tuple[Progress, Batch]], device: torch.device | None) -> Iterator[tuple[Progress, Batch]]:
    """The same on a device."""
    for progress, batch in shown:
        yield progress, Batch(batch.index.to(device), {v: view.to(device) for v, view in batch.views.items()})


@dataclass(frozen=True)
class Listed(Constant):
    """Values of the file, one per step, that none of the product's schedules gives."""

    values: tuple[float, ...] = ()

    def at(self, progress: Progress) -> float:
        return self.values[progress.step]


def schedule_of(values: Tensor, steps_per_epoch: int) -> Schedule:
    """The product's schedule that gives these values, one per step, whatever its ends and its warm-up; or the list itself."""
    steps = len(values)
    first, last = values[0].item(), values[-1].item()
    if values.min() == values.max():
        return Constant(first)
    rise = (last - first) / (steps - 1)
    candidates: list[Schedule] = [Linear(first - rise, last)]
    for warmup in range(steps - 1):
        # The first value after the warm-up is the peak; the last value is final + (peak - final) * share.
        peak = values[warmup].item()
        share = Cosine(1.0, 0.0).at(Progress(steps - warmup - 1, 1, steps - warmup))
        candidates.append(Cosine(peak, (last - peak * share) / (1 - share), warmup / steps_per_epoch, first))
    for schedule in candidates:
        at = [schedule.at(Progress(step, steps_per_epoch, steps)) for step in range(steps)]
        if torch.allclose(torch.tensor(at, dtype=torch.float64), values, rtol=1e-14, atol=1e-14):
            return schedule
    return Listed(first, tuple(values.tolist()))


def parts_of(meta: dict, arrays: dict[str, Tensor], dtype: torch.dtype) -> tuple[Student, Objective]:
    """Student and objective as the file describes them."""
    encoder = tiny_encoder(meta, arrays).to(dtype)
    width, roles = meta["network"]["dim"], roles_of(meta)
    heads = [arrays.get(f"init/groups{h}", torch.zeros(k, width)).to(dtype) for h, k in enumerate(meta["groups"])]
    assert [len(head) for head in heads] == meta["groups"]
    groups: LearnedGroups | KMeansGroups
    target: Any = SameNetwork()
    assignment: Assignment = Nearest()
    refresh = None
    if "beta_start" in meta:
        beta = Linear(meta["beta_start"], meta["beta_end"])
        groups = MomentumGroups(heads, beta, gradient=meta["group_gradient"])
        momentum = Constant(meta["encoder_momentum"])
        target = MomentumTeacher(target_copy(encoder), encoder, momentum=momentum, before=True)
        refresh = Refresh(reset_teacher=True)
    elif "kmeans_iterations" in meta:
        groups, refresh = KMeansGroups(heads), Refresh(labels=True)
    else:
        groups = LearnedGroups(heads, meta["frozen_steps"])
        if "encoder_momentum" in arrays:
            own = {"moving_average": groups, "shared": None}[meta["target_groups"]]
            momentum = schedule_of(arrays["encoder_momentum"], meta["steps_per_epoch"])
            target = MomentumTeacher(target_copy(encoder), encoder, own, momentum=momentum, before=False)
        if "target_temperature" in arrays:
            temperature = schedule_of(arrays["target_temperature"], meta["steps_per_epoch"])
            assignment = Centered(meta["groups"], temperature, meta["center_momentum"])
        else:
            assignment = Sinkhorn(meta["epsilon"], meta["sinkhorn_iterations"])
    objective = Objective(
        groups,
        assignment,
        roles,
        target=target,
        temperature=meta["temperature"],
        memory=memory_of(meta, roles, refresh),
        refresh=refresh,
        images=meta["images"],
    )
    return Student(encoder, groups), objective.to(dtype)


def memory_of(meta: dict, roles: Roles, refresh: Refresh | None) -> Memory | None:
    """SwAV's queue, or the memory of one epoch that a refresh needs."""
    slots, width, batch = len(roles.grouped_views), meta["network"]["dim"], meta["batch"]
    if refresh is not None:
        return Memory(meta["steps_per_epoch"] * batch, slots, width, batch_size=batch)
    if not meta.get("queue_length_requested"):
        return None
    start = meta["queue_start_epoch"]
    memory = Memory(meta["queue_length_requested"], slots, width, batch_size=batch, start_epoch=start)
    assert memory.length == meta["queue_length"]
    return memory
