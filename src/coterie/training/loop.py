"""The training loop. It knows no config and takes any objective."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from coterie.distributed.fsdp import gradient_norm
from coterie.models.activation_checkpointing import freeze_running_stats
from coterie.optim.optimizer import set_learning_rate, set_weight_decay
from coterie.types import Batch, Progress, StepResult

Batches = Iterable[tuple[Progress, Batch]]
StepHook = Callable[[Progress, StepResult], None]
"""Called after a step with its progress and its result."""


@runtime_checkable
class ObjectiveLike(Protocol):
    """What the loop needs of an objective, such as :class:`coterie.grouping.objective.Objective` or one of your own.

    ``student`` maps a list of views to h ``[V, B, F]``, unit z ``[V, B, D]`` and unit p ``[V, B, D]``.
    """

    def __call__(self, student: Any, batch: Batch, progress: Progress) -> StepResult:
        """Compute the loss of a step, with gradient, and what it was computed from."""

    def needs_fill(self) -> bool:
        """Whether to call :meth:`fill` before the first step."""

    def fill(self, student: Any, batches: Batches) -> None:
        """Fill the memory from one pass over the images, without gradient."""

    def refresh_due(self, progress: Progress) -> bool:
        """Whether to call :meth:`refresh` before this step."""

    def refresh(self, progress: Progress) -> None:
        """Recompute groups or labels."""

    def after_backward(self, progress: Progress) -> None:
        """Change gradients before they are clipped and the optimizer uses them."""

    def after_step(self, progress: Progress) -> None:
        """Update what follows the weights, such as a teacher."""


def fit(
    student: nn.Module,
    objective: ObjectiveLike,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[Progress], float],
    *,
    weight_decay: Callable[[Progress], float] | None = None,
    fill_batches: Callable[[], Batches] | None = None,
    autocast: torch.dtype | None = None,
    clip_grad_norm: float | None = None,
    seed: int | None = None,
    on_step_end: Sequence[StepHook] = (),
) -> None:
    """Train until the batches end. A step queues work on the device and waits for none of it.

    Args:
        student: the module that is trained; called with a list of views.
        objective: turns its embeddings into a loss.
        batches: the progress and the batch of each step, from the first step or, after a resume, from the next one.
        optimizer: updates the student's parameters.
        learning_rate: returns the learning rate of a step (a schedule's ``at``).
        weight_decay: returns the weight decay of a step; None: as the optimizer was built.
        fill_batches: returns one pass over the images, for objectives that fill a memory before the first step.
        autocast: precision of the student's forward pass under autocast (bfloat16); None: that of the weights.
        clip_grad_norm: largest norm of the gradient; None: unlimited.
        seed: seeds dropout and the like before each step, so that a resumed run draws what an uninterrupted one draws.
        on_step_end: called after each step, in order; they must leave the student in training mode.
    """
    student.train()
    weights = list(student.parameters())
    device = weights[0].device.type
    if objective.needs_fill():
        assert fill_batches is not None, "this objective fills a memory before the first step: pass fill_batches"
        if seed is not None:
            torch.manual_seed(seed - 1)
        with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            objective.fill(student, fill_batches())
    for progress, batch in batches:
        if seed is not None:
            torch.manual_seed(seed + progress.step)
        if objective.refresh_due(progress):
            objective.refresh(progress)
        set_learning_rate(optimizer, learning_rate(progress))
        if weight_decay is not None:
            set_weight_decay(optimizer, weight_decay(progress))
        with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            result = objective(student, batch, progress)
        with freeze_running_stats(student):
            result.loss.backward()  # type: ignore[no-untyped-call]
        objective.after_backward(progress)
        norm = gradient_norm(weights)
        if clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, clip_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(progress)
        for hook in on_step_end:
            hook(progress, replace(result, gradient_norm=norm))
