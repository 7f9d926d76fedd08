"""A golden trajectory run by the product's own parts; only batches, the tiny backbone and SGD come from here."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import coterie.grouping.objective
from coterie.grouping.assignment import Assignment, Centered, Nearest, Sinkhorn
from coterie.grouping.groups import KMeansGroups, LearnedGroups, MomentumGroups
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork
from coterie.models.encoder import Encoder, target_copy
from coterie.models.head import Head, HeadConfig
from coterie.optim.schedule import Constant, Cosine, Linear, Schedule
from coterie.training.loop import fit
from coterie.training.student import Student
from coterie.types import Batch, Progress, Roles, StepResult
from tests.parity.conftest import Golden


def tiny_backbone(network: dict) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [("conv", nn.Conv2d(3, network["channels"], 3, stride=2))]
    if network["conv_bn"]:
        layers.append(("conv_bn", nn.BatchNorm2d(network["channels"])))
    model = nn.Sequential()
    for name, layer in [*layers, ("relu", nn.ReLU()), ("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten())]:
        model.add_module(name, layer)
    return model


def tiny_encoder(network: dict, *, joint: bool) -> Encoder:
    hidden = (network["hidden"],)
    width, batch_norm = network["dim"], network["head_bn"]
    config = HeadConfig(hidden, width, batch_norm, last_batch_norm=network.get("out_bn", False))
    predictor = Head(width, HeadConfig(hidden, width, batch_norm)) if network.get("predictor") else None
    scope = "joint" if joint else "resolution"
    projector = Head(network["channels"], config)
    return Encoder(tiny_backbone(network), projector, predictor, batch_norm_scope=scope)


def golden_names(encoder: Encoder) -> dict[str, str]:
    """Our names of parameters and buffers -> the golden file's."""
    names = {f"backbone.{layer}": layer for layer, _ in encoder.backbone.named_children()}
    for head, theirs in ((encoder.projector, "proj"), (encoder.predictor, "pred")):
        ours = "projector" if head is encoder.projector else "predictor"
        modules = list(head.named_modules()) if head is not None else []
        linears = [name for name, m in modules if isinstance(m, nn.Linear)]
        norms = [name for name, m in modules if isinstance(m, nn.BatchNorm1d)]
        names |= {f"{ours}.{name}": f"{theirs}{i}" for i, name in enumerate(linears, start=1)}
        names |= {f"{ours}.{name}": f"{theirs}{end}" for name, end in zip(norms, ["_bn", "_out_bn"], strict=False)}
    return {
        key: f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"
        for key in encoder.state_dict()
        if not key.endswith("num_batches_tracked")
    }


@dataclass
class Trace:
    """What a run showed: per step the loss, at each step the state that its forward pass used and its gradients."""

    student: Student
    objective: Objective
    losses: list[float] = field(default_factory=list)
    results: dict[int, StepResult] = field(default_factory=dict)
    parameters: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    gradients: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    predictions: dict[int, Tensor] = field(default_factory=dict)
    teachers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    decided: dict[int, Tensor] = field(default_factory=dict)
    groups: dict[int, list[Tensor]] = field(default_factory=dict)
    memories: dict[int, Tensor | None] = field(default_factory=dict)
    memory_used: list[bool] = field(default_factory=list)
    refreshed: list[dict[str, Any]] = field(default_factory=list)
    first_memory: Tensor | None = None


def views_of(arrays: dict[str, Tensor], step: int) -> list[Tensor]:
    names = ("family_a_large", "family_a_small", "family_b_large", "family_b_small", "views_large", "views_small")
    return [view for name in names if name in arrays for view in arrays[name][step]]


def roles_of(meta: dict) -> Roles:
    views = meta["large_views"] + meta["small_views"]
    targets = tuple(meta["target_views"])
    if "student_large_views" not in meta:
        return Roles(tuple(range(views)), targets, targets)
    grouped, small = tuple(meta["student_large_views"]), range(meta["large_views"], views)
    decide, beside = (tuple(views + view for view in each) for each in (targets, small))
    return Roles((*grouped, *small), decide, grouped, beside, family=views)


def batches(arrays: dict[str, Tensor], meta: dict, dtype: torch.dtype) -> Iterator[tuple[Progress, Batch]]:
    total = len(arrays["index"])
    for step in range(total):
        progress = Progress(step, meta["steps_per_epoch"], total)
        assert (progress.epoch, progress.step) == (int(arrays["epoch"][step]), int(arrays["step"][step]))
        views = {number: view.to(dtype) for number, view in enumerate(views_of(arrays, step))}
        yield progress, Batch(arrays["index"][step], views)


def first_pass(arrays: dict[str, Tensor], meta: dict, dtype: torch.dtype) -> Iterator[tuple[Progress, Batch]]:
    grouped = roles_of(meta).grouped_views
    for step, index in enumerate(arrays["init_index"]):
        views = {v: arrays["init_views_large"][step][slot].to(dtype) for slot, v in enumerate(grouped)}
        yield Progress(step, meta["steps_per_epoch"], len(arrays["index"])), Batch(index, views)


def newest_batch_first(rows: Tensor, pushed: int, batch: int) -> Tensor:
    """Our ring of rows in the golden order: the newest batch first, image order kept inside a batch."""
    ring = rows.roll(-(pushed % rows.shape[1]), dims=1)
    return torch.cat(list(reversed(ring.split(batch, dim=1))), dim=1)


def schedule_of(values: Tensor) -> Schedule:
    """The product's schedule that gives these values, one a step."""
    if values.min() == values.max():
        return Constant(values[0].item())
    rise = (values[-1] - values[0]).item() / (len(values) - 1)
    line, curve = Linear(values[0].item() - rise, values[-1].item()), Cosine(values[0].item(), final=1.0)
    for schedule in (line, curve):
        at = [schedule.at(Progress(step, 1, len(values))) for step in range(len(values))]
        if torch.allclose(torch.tensor(at, dtype=torch.float64), values, rtol=1e-14, atol=1e-14):
            return schedule
    raise AssertionError(f"no schedule of ours gives {values}")


def parts_of(file: Golden, arrays: dict[str, Tensor], dtype: torch.dtype) -> tuple[Student, Objective]:
    """Student and objective as the file describes them."""
    meta = file.meta
    smog = "beta_start" in meta
    encoder = tiny_encoder(meta["network"], joint=smog and meta["network"]["conv_bn"]).to(dtype)
    state = encoder.state_dict()
    for ours, theirs in golden_names(encoder).items():
        source = f"init/{theirs}" if f"init/{theirs}" in arrays else f"init_buffers/{theirs}"
        state[ours].copy_(arrays[source])
    width, roles = meta["network"]["dim"], roles_of(meta)
    heads = [arrays.get(f"init/groups{h}", torch.zeros(k, width)).to(dtype) for h, k in enumerate(meta["groups"])]
    groups: LearnedGroups | KMeansGroups
    target: Any = SameNetwork()
    memory, refresh = None, None
    assignment: Assignment = Nearest()
    if smog:
        beta = Linear(meta["beta_start"], meta["beta_end"])
        groups = MomentumGroups(heads, beta, gradient=meta["group_gradient"])
        target = MomentumTeacher(
            target_copy(encoder), encoder, momentum=Constant(meta["encoder_momentum"]), before=True
        )
        refresh = Refresh(reset_teacher=True)
    elif "kmeans_iterations" in meta:
        groups, refresh = KMeansGroups(heads), Refresh(labels=True)
    else:
        groups = LearnedGroups(heads, meta["frozen_steps"])
        if "encoder_momentum" in arrays:
            own = groups if meta["target_groups"] == "moving_average" else None
            momentum = schedule_of(arrays["encoder_momentum"])
            target = MomentumTeacher(target_copy(encoder), encoder, own, momentum=momentum, before=False)
        if "center" in arrays:
            assignment = Centered(meta["groups"], schedule_of(arrays["target_temperature"]), meta["center_momentum"])
        else:
            assignment = Sinkhorn(meta["epsilon"], meta["sinkhorn_iterations"])
    length = meta.get("queue_length_requested", 0) if refresh is None else meta["steps_per_epoch"] * meta["batch"]
    if length:
        start = meta.get("queue_start_epoch", 0)
        slots = len(roles.grouped_views)
        memory = Memory(length, slots, width, batch_size=meta["batch"], start_epoch=start).to(dtype)
        assert memory.length == meta.get("queue_length", length)
    objective = Objective(
        groups,
        assignment,
        roles,
        target=target,
        temperature=meta["temperature"],
        memory=memory,
        refresh=refresh,
        images=meta["images"],
    )
    return Student(encoder, groups), objective.to(dtype)


def run(file: Golden, dtype: torch.dtype = torch.float64) -> Trace:
    meta, arrays = file.meta, file.tensors()
    student, objective = parts_of(file, arrays, dtype)
    names = golden_names(student.encoder)
    kind = dict(meta["optimizer"])
    assert kind.pop("kind") == "sgd"
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0, **kind)
    trace = Trace(student, objective)
    _observe(trace, names, meta, optimizer)

    def after_step(progress: Progress, result: StepResult) -> None:
        trace.results[progress.step] = result
        trace.losses.append(result.loss.item())

    def their_starts(rows: int, count: int, seed: int, step: int, head: int) -> Tensor:
        return arrays[f"kmeans_starts{head}"][step // meta["steps_per_epoch"]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coterie.grouping.objective, "random_starts", their_starts)
        fit(
            student,
            objective,
            batches(arrays, meta, dtype),
            optimizer,
            lambda progress: arrays["lr"][progress.step].item(),
            fill_batches=lambda: first_pass(arrays, meta, dtype),
            on_step_end=[after_step],
        )
    return trace


def _observe(trace: Trace, names: dict[str, str], meta: dict, optimizer: torch.optim.Optimizer) -> None:
    """Take down, by hooks on the product's own calls, what each step used."""
    student, objective = trace.student, trace.objective
    teacher = objective.target if isinstance(objective.target, MomentumTeacher) else None

    def named(values: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {names[k.removeprefix("encoder.")]: v for k, v in values.items() if k.startswith("encoder.")}
        return renamed | {k.replace("groups.heads.", "groups"): v for k, v in values.items() if k.startswith("groups.")}

    def before_forward(*_: object) -> None:
        if objective.needs_fill() or not torch.is_grad_enabled():
            return  # the pass that fills the memory
        step = len(trace.losses)
        trace.parameters[step] = named({k: p.detach().clone() for k, p in student.named_parameters()})
        queue = objective.memory
        trace.memory_used.append(queue is not None and queue.full)
        started = queue is not None and queue.pushed > 0
        trace.memories[step] = newest_batch_first(queue.rows, queue.pushed, meta["batch"]) if started else None
        if teacher is not None:
            trace.teachers[step] = {names[k]: p.clone() for k, p in teacher.network.named_parameters()}
            trace.teachers[step] |= {f"groups{h}": each.clone() for h, each in enumerate(teacher.heads)}
        if isinstance(objective.assignment, Centered):
            trace.teachers[step]["center"] = objective.assignment.get_buffer("center0").clone()

    def after_forward(_: nn.Module, __: object, result: tuple[Tensor, Tensor, Tensor]) -> None:
        trace.predictions[len(trace.losses)] = result[2].detach()

    def after_teacher(_: nn.Module, __: object, result: tuple[Tensor, Tensor, Tensor]) -> None:
        trace.decided[len(trace.losses)] = result[1].detach()

    def before_optimizer(*_: object) -> None:
        found = {k: p.grad.clone() for k, p in student.named_parameters() if p.grad is not None}
        trace.gradients[len(trace.losses)] = named(found)
        trace.groups[len(trace.losses)] = [each.detach().clone() for each in objective.groups.centers()]

    student.register_forward_pre_hook(before_forward)
    student.register_forward_hook(after_forward)
    if teacher is not None:
        teacher.network.register_forward_hook(after_teacher)
    optimizer.register_step_pre_hook(before_optimizer)
    refresh = objective.refresh

    def seen_refresh(progress: Progress) -> None:
        memory = objective.memory
        if trace.first_memory is None:
            trace.first_memory = memory.rows.clone()
        refresh(progress)
        labels = copy.deepcopy(objective.labels)
        centers = [each.clone() for each in objective.groups.centers()]
        trace.refreshed.append({"index": memory.index.clone(), "labels": labels, "centers": centers})

    objective.refresh = seen_refresh
