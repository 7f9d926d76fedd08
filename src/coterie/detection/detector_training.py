"""The training loop of detectors, from any step on: a step is a pure function of seed, step and state."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchvision.models.detection import MaskRCNN

from coterie.config.hardware import Runtime
from coterie.detection.boxes import BoxedSource
from coterie.detection.schedules import DetectionSchedule, rate_at
from coterie.detection.training_images import DetectionBatch, training_batches
from coterie.errors import UserError
from coterie.signals import check_interrupted

LOGGED = 10
"""Steps whose mean loss is a line of the log."""
_MOST_NORM = 10.0
"""Gradients are scaled down to this norm: what a first step on new weights may exceed."""


@final
class DetectorTraining:
    """A detector that is trained in place.

    Everything that follows from the steps so far is in :meth:`state_dict`: on a CPU, a training that is loaded from it goes on
    with the same bits.

    Attributes:
        network: the detector.
        done: steps that are done.
        total_steps: how many there are.
        bad: name and reason of each image that could not be used.
        what: name of this training for the logger.
    """

    def __init__(
        self,
        network: nn.Module,
        boxed: BoxedSource,
        schedule: DetectionSchedule,
        total_steps: int,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """Begin with the first step.

        Args:
            network: a detector in training mode, on the runtime's device.
            boxed: images and boxes.
            schedule: optimizer, batch size and learning rates.
            total_steps: how many there are.
            seed: for the order of images, their flips, and what the detector draws.
            runtime: where and how to compute; its logger shows progress.
        """
        self.network, self.boxed, self.schedule, self.total_steps = network, boxed, schedule, total_steps
        self.seed, self.runtime, self.what = seed, runtime, "training a detector"
        self.done, self.bad = 0, dict[str, str]()
        self._losses: list[dict[str, float]] = []  # since the last line of the log
        self._optimizer = _optimizer(network, schedule)

    def run(
        self,
        *,
        after_step: Callable[[], None] = check_interrupted,
        log: Callable[[dict[str, Any]], None] = lambda record: None,
        passed: Callable[[Iterator[DetectionBatch]], Iterator[DetectionBatch]] = iter,
    ) -> None:
        """Train to the end.

        Args:
            after_step: called after each step; it may raise.
            log: called after every ten steps with their mean losses.
            passed: passes on the batches, and may time them, or end early.

        Raises:
            UserError: the loss is not finite.
        """
        steps, channels = range(self.done, self.total_steps), len(self.network.transform.image_mean)  # type: ignore[union-attr, arg-type]
        masks = isinstance(self.network, MaskRCNN)
        batches = training_batches(
            self.boxed, channels, self.schedule.batch_size, steps, self.seed, self.runtime.workers, masks=masks
        )
        for batch in self.runtime.logger.progress(passed(batches), len(steps), self.what):
            rate = self._step(batch.to(self.runtime.device))
            if self._losses and (self.done % LOGGED == 0 or self.done == self.total_steps):
                means = {name: statistics.fmean(each[name] for each in self._losses) for name in self._losses[0]}
                log({"step": self.done - 1, **means, "learning_rate": rate})
                self._losses.clear()
            after_step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that follows from the steps so far."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "done": self.done,
            "bad": self.bad,
            "losses": self._losses,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            LookupError, RuntimeError, TypeError, ValueError: it is of another training.
        """
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done, self.bad, self._losses = int(state["done"]), dict(state["bad"]), list(state["losses"])

    def _step(self, batch: DetectionBatch) -> float:
        """Train a step; returns its learning rate."""
        torch.manual_seed(_stream(self.seed, self.done))
        rate = rate_at(self.schedule, self.done, self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.bad.update(batch.bad)
        if batch.images:
            self._losses.append(self._learn(batch))
        self.done += 1
        return rate

    def _learn(self, batch: DetectionBatch) -> dict[str, float]:
        """Change the weights; returns ``loss`` and its parts."""
        self._optimizer.zero_grad()
        parts: dict[str, Tensor] = self.network(batch.images, batch.targets)
        loss = torch.stack(list(parts.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _MOST_NORM)
        self._optimizer.step()
        losses = {name: float(each.detach()) for name, each in {"loss": loss, **parts}.items()}
        if not math.isfinite(losses["loss"]):
            raise UserError(
                f"the loss is {losses['loss']} in step {self.done}: use a smaller --learning-rate than "
                f"{self.schedule.learning_rate:g}"
            )
        return losses


def _optimizer(detector: nn.Module, schedule: DetectionSchedule) -> Optimizer:
    """SGD with momentum; norms and biases do not decay."""
    trained = [each for each in detector.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)


def _stream(seed: int, step: int) -> int:
    """The seed of a step: neighboring seeds and steps give unrelated ones (Steele et al. 2014)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed ^ (mixed >> 31)) % 2**63
