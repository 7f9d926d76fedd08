"""What a run of the product did at each step, recorded through hooks on the product's own calls."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from coterie.grouping.assignment import Centered
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher
from coterie.training.student import Student
from coterie.types import Progress, StepResult
from tests.parity.network import golden_names


@dataclass
class Trace:
    """Losses of all steps; and for each step the state that its forward pass used and the gradients it gave."""

    student: Student
    objective: Objective
    losses: list[float] = field(default_factory=list)
    results: dict[int, StepResult] = field(default_factory=dict)
    parameters: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    gradients: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    predictions: dict[int, Tensor] = field(default_factory=dict)
    teachers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    teacher_embeddings: dict[int, Tensor] = field(default_factory=dict)
    groups: dict[int, list[Tensor]] = field(default_factory=dict)
    memories: dict[int, Tensor] = field(default_factory=dict)
    memory_used: list[bool] = field(default_factory=list)
    refreshes: list[dict[str, Any]] = field(default_factory=list)
    first_memory: Tensor | None = None

    def after_step(self, progress: Progress, result: StepResult) -> None:
        """An observer of the product's loop."""
        self.results[progress.step] = result
        self.losses.append(result.loss.item())


def newest_batch_first(rows: Tensor, pushed: int, batch: int) -> Tensor:
    """Our ring of rows in the golden order: the newest batch first, image order kept inside a batch."""
    ring = rows.roll(-(pushed % rows.shape[1]), dims=1)
    return torch.cat(list(reversed(ring.split(batch, dim=1))), dim=1)


def record(student: Student, objective: Objective, optimizer: torch.optim.Optimizer, batch: int) -> Trace:
    """A trace that fills itself while the product's loop runs with ``Trace.after_step`` among its observers."""
    trace, names = Trace(student, objective), golden_names(student.encoder)
    _record_forward(trace, names, batch)
    _record_gradients(trace, names, optimizer)
    if objective.refresh_rule is not None:
        _record_refreshes(trace)
    return trace


def _named(values: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {names[k.removeprefix("encoder.")]: v for k, v in values.items() if k.startswith("encoder.")}
    return renamed | {k.replace("groups.heads.", "groups"): v for k, v in values.items() if k.startswith("groups.")}


def _record_forward(trace: Trace, names: dict[str, str], batch: int) -> None:
    student, objective = trace.student, trace.objective
    teacher = objective.target if isinstance(objective.target, MomentumTeacher) else None

    def before_student(*_: object) -> None:
        if objective.needs_fill() or not torch.is_grad_enabled():
            return  # the pass that fills the memory
        step = len(trace.losses)
        trace.parameters[step] = _named({k: p.detach().clone() for k, p in student.named_parameters()}, names)
        queue = objective.memory
        trace.memory_used.append(queue is not None and queue.full)
        if queue is not None:
            trace.memories[step] = newest_batch_first(queue.rows, queue.pushed, batch)
        if teacher is not None:
            trace.teachers[step] = {names[k]: p.clone() for k, p in teacher.network.named_parameters()}
            trace.teachers[step] |= {f"groups{h}": each.clone() for h, each in enumerate(teacher.heads)}
        if isinstance(objective.assignment, Centered):
            trace.teachers[step]["center"] = objective.assignment.get_buffer("center0").clone()

    def after_student(_: nn.Module, __: object, result: tuple[Tensor, Tensor, Tensor]) -> None:
        trace.predictions[len(trace.losses)] = result[2].detach()

    def after_teacher(_: nn.Module, __: object, result: tuple[Tensor, Tensor, Tensor]) -> None:
        trace.teacher_embeddings[len(trace.losses)] = result[1].detach()

    student.register_forward_pre_hook(before_student)
    student.register_forward_hook(after_student)
    if teacher is not None:
        teacher.network.register_forward_hook(after_teacher)


def _record_gradients(trace: Trace, names: dict[str, str], optimizer: torch.optim.Optimizer) -> None:
    def before_optimizer(*_: object) -> None:
        step, parameters = len(trace.losses), trace.student.named_parameters()
        trace.gradients[step] = _named({k: p.grad.clone() for k, p in parameters if p.grad is not None}, names)
        trace.groups[step] = [each.detach().clone() for each in trace.objective.groups.centers()]

    optimizer.register_step_pre_hook(before_optimizer)


def _record_refreshes(trace: Trace) -> None:
    objective, refresh = trace.objective, trace.objective.refresh

    def refresh_and_record(progress: Progress) -> None:
        if trace.first_memory is None:
            trace.first_memory = objective.memory.rows.clone()
        refresh(progress)
        centers = [each.clone() for each in objective.groups.centers()]
        labels = copy.deepcopy(objective.labels)
        trace.refreshes.append({"index": objective.memory.index.clone(), "labels": labels, "centers": centers})

    objective.refresh = refresh_and_record
