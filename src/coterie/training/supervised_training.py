"""The loop that trains detectors and segmenters, from any step on: a step is a pure function of seed, step and state."""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from coterie.config.hardware import Runtime
from coterie.errors import UserError
from coterie.signals import check_interrupted

LOGGED = 10
"""Steps whose mean loss is a line of the log."""
_MOST_NORM = 10.0
"""Gradients are scaled down to this norm: what a first step on new weights may exceed."""


@runtime_checkable
class TrainingBatch(Protocol):
    """The images of a step, and what is known of them."""

    @property
    def images(self) -> Sequence[Tensor]:
        """Those that can be used; () if none can."""

    @property
    def bad(self) -> Sequence[tuple[str, str]]:
        """Name and reason of each image that cannot be used."""

    def to(self, device: torch.device) -> Any:
        """The same on a device."""


Batch = TypeVar("Batch", bound=TrainingBatch)


class SupervisedTraining(ABC, Generic[Batch]):
    """A network that is trained in place.

    Everything that follows from the steps so far is in :meth:`state_dict`: on a CPU, a training that is loaded from it goes on
    with the same bits.

    Attributes:
        network: what is trained.
        done: steps that are done.
        total_steps: how many there are.
        bad: name and reason of each image that could not be used.
        what: name of this training for the logger.
    """

    what: str

    def __init__(self, network: nn.Module, optimizer: Optimizer, total_steps: int, seed: int, runtime: Runtime) -> None:
        """Begin with the first step.

        Args:
            network: in training mode, on the runtime's device.
            optimizer: of its weights.
            total_steps: how many there are.
            seed: for all that a step draws.
            runtime: where and how to compute; its logger shows progress.
        """
        self.network, self.total_steps, self.seed, self.runtime = network, total_steps, seed, runtime
        self.done, self.bad = 0, dict[str, str]()
        self._losses: list[dict[str, float]] = []  # since the last line of the log
        self._optimizer, self._highest = optimizer, float(optimizer.param_groups[0]["lr"])

    @abstractmethod
    def _batches(self, steps: range) -> Iterator[Batch]:
        """The batches of some steps, each a pure function of seed and step."""

    @abstractmethod
    def _losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, whose sum is made smaller."""

    @abstractmethod
    def _rate(self, step: int) -> float:
        """The learning rate of a step."""

    def run(
        self,
        *,
        after_step: Callable[[], None] = check_interrupted,
        log: Callable[[dict[str, Any]], None] = lambda record: None,
        passed: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    ) -> None:
        """Train to the end.

        Args:
            after_step: called after each step; it may raise.
            log: called after every ten steps with their mean losses.
            passed: passes on the batches, and may time them, or end early.

        Raises:
            UserError: the loss is not finite.
        """
        steps = range(self.done, self.total_steps)
        for batch in self.runtime.logger.progress(passed(self._batches(steps)), len(steps), self.what):
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

    def _step(self, batch: Batch) -> float:
        """Train a step; returns its learning rate."""
        torch.manual_seed(_stream(self.seed, self.done))
        rate = self._rate(self.done)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.bad.update(batch.bad)
        if batch.images:
            self._losses.append(self._learn(batch))
        self.done += 1
        return rate

    def _learn(self, batch: Batch) -> dict[str, float]:
        """Change the weights; returns ``loss`` and its parts."""
        self._optimizer.zero_grad()
        parts = self._losses_of(batch)
        loss = torch.stack(list(parts.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _MOST_NORM)
        self._optimizer.step()
        losses = {name: float(each.detach()) for name, each in {"loss": loss, **parts}.items()}
        if not math.isfinite(losses["loss"]):
            raise UserError(
                f"the loss is {losses['loss']} in step {self.done}: use a smaller --learning-rate than {self._highest:g}"
            )
        return losses


def decaying_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The weights of a network that are trained, for an optimizer; norms and biases do not decay."""
    trained = [each for each in network.parameters() if each.requires_grad]
    return [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
    ]


def _stream(seed: int, step: int) -> int:
    """The seed of a step: neighboring seeds and steps give unrelated ones (Steele et al. 2014)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed ^ (mixed >> 31)) % 2**63
