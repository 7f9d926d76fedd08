"""The loop."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from coterie.distributed.fsdp import gradient_norm
from coterie.grouping.batch_objective import BatchObjective
from coterie.grouping.objective import Objective
from coterie.models.activation_checkpointing import freeze_running_stats
from coterie.optim.optimizer import set_learning_rate
from coterie.types import Batch, Progress, StepResult

Observer = Callable[[Progress, StepResult], None]


def fit(
    student: nn.Module,
    objective: Objective | BatchObjective,
    batches: Iterable[tuple[Progress, Batch]],
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[Progress], float],
    *,
    once: Callable[[], Iterable[tuple[Progress, Batch]]] | None = None,
    autocast: torch.dtype | None = None,
    clip_grad_norm: float | None = None,
    seed: int | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Train until the batches end; a step starts work on the device and waits for none of it.

    Args:
        student: all that is trained; called with a list of views.
        objective: turns its embeddings into a loss.
        batches: what is seen, with the progress of each step: from the start or, after a resume, from the next step.
        optimizer: moves the student's parameters.
        learning_rate: of each step (a schedule's ``at``).
        once: gives one pass over the images, for objectives whose memory has to be filled before the first step.
        autocast: precision of the student's forward pass where it may be low (bfloat16); None: as the weights are.
        clip_grad_norm: largest norm of the gradient; None: any.
        seed: seeds dropout and the like anew at each step, so that a resumed run draws what the whole one drew.
        observers: called after each step, in order: monitors, savers, probes; they leave the student in training mode.
    """
    student.train()
    weights = list(student.parameters())
    device = weights[0].device.type
    if objective.needs_fill():
        assert once is not None, "this objective fills its memory first: give it a pass over the images"
        if seed is not None:
            torch.manual_seed(seed - 1)
        with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            objective.fill(student, once())
    for progress, batch in batches:
        if seed is not None:
            torch.manual_seed(seed + progress.step)
        if objective.refresh_due(progress):
            objective.refresh(progress)
        set_learning_rate(optimizer, learning_rate(progress))
        with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            result = objective(student, batch, progress)
        with freeze_running_stats(student):
            result.loss.backward()
        objective.after_backward(progress)
        norm = gradient_norm(weights)
        if clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, clip_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step(progress)
        for observe in observers:
            observe(progress, replace(result, gradient_norm=norm))
