"""A golden trajectory run by the product's own parts; only batches, the tiny backbone and SGD come from here."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from coterie.grouping.assignment import Sinkhorn
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.memory import Memory
from coterie.grouping.objective import Objective
from coterie.models.encoder import Encoder
from coterie.models.head import Head, HeadConfig
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


def tiny_encoder(network: dict) -> Encoder:
    config = HeadConfig(hidden=(network["hidden"],), width=network["dim"], batch_norm=network["head_bn"])
    return Encoder(tiny_backbone(network), Head(network["channels"], config))


def golden_names(encoder: Encoder) -> dict[str, str]:
    """Our names of parameters and buffers -> the golden file's."""
    names = {f"backbone.{layer}": layer for layer, _ in encoder.backbone.named_children()}
    linears = [name for name, m in encoder.projector.named_modules() if isinstance(m, nn.Linear)]
    norms = [name for name, m in encoder.projector.named_modules() if isinstance(m, nn.BatchNorm1d)]
    names |= {f"projector.{name}": f"proj{i}" for i, name in enumerate(linears, start=1)}
    names |= {f"projector.{name}": golden for name, golden in zip(norms, ["proj_bn"], strict=False)}
    state = encoder.state_dict()
    return {
        key: f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}"
        for key in state
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
    memories: dict[int, Tensor | None] = field(default_factory=dict)
    memory_used: list[bool] = field(default_factory=list)


def batches(arrays: dict[str, Tensor], meta: dict, dtype: torch.dtype) -> Iterator[tuple[Progress, Batch]]:
    total = len(arrays["index"])
    for step in range(total):
        views = [*arrays["views_large"][step], *arrays["views_small"][step]]
        progress = Progress(step, meta["steps_per_epoch"], total)
        assert (progress.epoch, progress.step) == (int(arrays["epoch"][step]), int(arrays["step"][step]))
        yield progress, Batch(arrays["index"][step], tuple(v.to(dtype) for v in views))


def newest_batch_first(rows: Tensor, pushed: int, batch: int) -> Tensor:
    """Our ring of rows in the golden order: the newest batch first, image order kept inside a batch."""
    ring = rows.roll(-(pushed % rows.shape[1]), dims=1)
    return torch.cat(list(reversed(ring.split(batch, dim=1))), dim=1)


def run(file: Golden, dtype: torch.dtype = torch.float64) -> Trace:
    meta, arrays = file.meta, file.tensors()
    encoder = tiny_encoder(meta["network"]).to(dtype)
    names = golden_names(encoder)
    state = encoder.state_dict()
    for ours, theirs in names.items():
        source = f"init/{theirs}" if f"init/{theirs}" in arrays else f"init_buffers/{theirs}"
        state[ours].copy_(arrays[source])
    heads = [arrays[f"init/groups{h}"].to(dtype) for h in range(len(meta["groups"]))]
    groups = LearnedGroups(heads, meta["frozen_steps"])
    student = Student(encoder, groups)
    views = range(meta["large_views"] + meta["small_views"])
    targets = tuple(meta["target_views"])
    memory = None
    if meta["queue_length_requested"]:
        memory = Memory(
            meta["queue_length_requested"],
            len(targets),
            meta["network"]["dim"],
            batch_size=meta["batch"],
            start_epoch=meta["queue_start_epoch"],
        ).to(dtype)
        assert memory.length == meta["queue_length"]
    objective = Objective(
        groups,
        Sinkhorn(meta["epsilon"], meta["sinkhorn_iterations"]),
        Roles(tuple(views), targets, targets),
        temperature=meta["temperature"],
        memory=memory,
    )
    kind = dict(meta["optimizer"])
    assert kind.pop("kind") == "sgd"
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0, **kind)
    trace = Trace(student, objective)

    def named(values: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {names[k.removeprefix("encoder.")]: v for k, v in values.items() if k.startswith("encoder.")}
        return renamed | {k.replace("groups.heads.", "groups"): v for k, v in values.items() if k.startswith("groups.")}

    def before_forward(*_: object) -> None:
        step = len(trace.losses)
        trace.parameters[step] = named({k: p.detach().clone() for k, p in student.named_parameters()})
        queue = objective.memory
        trace.memory_used.append(queue is not None and queue.full)
        started = queue is not None and queue.pushed > 0
        trace.memories[step] = newest_batch_first(queue.rows, queue.pushed, meta["batch"]) if started else None

    def before_optimizer(*_: object) -> None:
        found = {k: p.grad.clone() for k, p in student.named_parameters() if p.grad is not None}
        trace.gradients[len(trace.losses)] = named(found)

    def after_step(progress: Progress, result: StepResult) -> None:
        trace.results[progress.step] = result
        trace.losses.append(result.loss.item())

    student.register_forward_pre_hook(before_forward)
    optimizer.register_step_pre_hook(before_optimizer)
    fit(
        student,
        objective,
        batches(arrays, meta, dtype),
        optimizer,
        lambda progress: arrays["lr"][progress.step].item(),
        observers=[after_step],
    )
    return trace
