"""The training loop of a detector: a step is a pure function of seed, step and state, so that a stopped one goes on exactly."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from coterie.config.hardware import Runtime
from coterie.detection.boxes import BoxedSource
from coterie.detection.schedules import DetectionSchedule, rate_at
from coterie.detection.training_images import DetectionBatch, training_batches
from coterie.errors import UserError

_MOST_NORM = 10.0
"""Gradients are scaled down to this norm: what a first step on new weights may exceed."""


@dataclass(frozen=True)
class StepMeasured:
    """A step that is done.

    Attributes:
        step: its number, from 0.
        losses: ``loss`` and its parts; empty if none of its images could be used.
        learning_rate: of the step.
        bad: name and reason of each image that could not be used.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    bad: list[tuple[str, str]]


Done = Callable[[StepMeasured], None]


def make_optimizer(detector: nn.Module, schedule: DetectionSchedule) -> Optimizer:
    """The optimizer of a schedule; norms and biases do not decay.

    Args:
        detector: whose parameters it trains.
        schedule: says how.
    """
    decaying = [each for each in detector.parameters() if each.requires_grad and each.ndim > 1]
    others = [each for each in detector.parameters() if each.requires_grad and each.ndim <= 1]
    groups = [{"params": decaying, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if schedule.optimizer == "adamw":
        return AdamW(groups, lr=schedule.learning_rate)
    return SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)


def train_steps(
    detector: nn.Module,
    optimizer: Optimizer,
    boxed: BoxedSource,
    schedule: DetectionSchedule,
    steps: range,
    total: int,
    seed: int,
    runtime: Runtime,
    done: Done,
) -> None:
    """Train some steps.

    Args:
        detector: in training mode, on the device of ``runtime``.
        optimizer: of :func:`make_optimizer`.
        boxed: images and boxes.
        schedule: batch size and learning rates.
        steps: numbers of the steps.
        total: how many there are in all, for the learning rate.
        seed: for the order of images, their flips, and what the detector draws.
        runtime: where and how to compute; its logger shows progress.
        done: called after each step; what it raises ends the training.

    Raises:
        UserError: the loss is not finite.
    """
    channels = len(detector.transform.image_mean)  # type: ignore[union-attr, arg-type]
    batches = training_batches(boxed, channels, schedule.batch_size, steps, seed, runtime.workers)
    for step, batch in zip(steps, runtime.logger.progress(batches, len(steps), "training"), strict=True):
        torch.manual_seed(_stream(seed, step))
        rate = rate_at(schedule, step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = _step(detector, optimizer, batch.to(runtime.device)) if batch.images else {}
        if losses and not math.isfinite(losses["loss"]):
            raise UserError(
                f"the loss is {losses['loss']} in step {step}: use a smaller --learning-rate than {schedule.learning_rate:g}"
            )
        done(StepMeasured(step, losses, rate, batch.bad))


def seconds_of_a_step(
    detector: nn.Module, boxed: BoxedSource, schedule: DetectionSchedule, seed: int, runtime: Runtime
) -> float:
    """How long a step takes, the middle of three after one to warm up; the detector is trained by them, so give a copy.

    Args:
        detector: as of :func:`train_steps`, as the rest.
        boxed: images and boxes.
        schedule: batch size and learning rates.
        seed: as there.
        runtime: as there.
    """
    times: list[float] = [time.perf_counter()]
    optimizer = make_optimizer(detector, schedule)
    train_steps(
        detector, optimizer, boxed, schedule, range(4), 1000, seed, runtime, lambda _: times.append(time.perf_counter())
    )
    return sorted(after - before for before, after in pairwise(times[1:]))[1]


def _step(detector: nn.Module, optimizer: Optimizer, batch: DetectionBatch) -> dict[str, float]:
    optimizer.zero_grad()
    parts: dict[str, Tensor] = detector(batch.images, batch.targets)
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(detector.parameters(), _MOST_NORM)
    optimizer.step()
    return {"loss": float(loss.detach()), **{name: float(each.detach()) for name, each in parts.items()}}


def _stream(seed: int, step: int) -> int:
    """The seed of a step: neighboring seeds and steps give unrelated ones (Steele et al. 2014)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed ^ (mixed >> 31)) % 2**63
