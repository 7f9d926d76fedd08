"""The training loop of classifiers: a backbone with a linear layer on it, on images with labels, from any step on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.loading.loader import Loader
from coterie.errors import UserError
from coterie.evaluation.probes.recipe import Recipe
from coterie.signals import check_interrupted
from coterie.types import Batch, Progress

_IGNORED = -100  # the label that cross_entropy leaves out

Batches = Iterator[tuple[Progress, Batch]]
EpochHook = Callable[[int, float], None]
"""Called after an epoch with its number, from 1, and its mean loss; it leaves the backbone in any mode."""


@final
class ClassifierTraining:
    """A backbone with a linear layer on it, which is trained in place.

    Everything that follows from the steps so far is in :meth:`state_dict`: on a CPU, a training that is loaded from it goes on
    with the same bits.

    Attributes:
        network: images ``[B, C, H, W]`` to features ``[B, F]``.
        head: features to one logit for each class.
        done: steps that are done.
        total_steps: how many there are.
    """

    def __init__(
        self,
        network: nn.Module,
        head: nn.Linear,
        loader: Loader,
        truth: Int[Tensor, " n"] | Bool[Tensor, "n c"],
        recipe: Recipe,
        runtime: Runtime,
        *,
        frozen: Sequence[str] = (),
        seed: int | None = None,
        what: str = "training a classifier",
    ) -> None:
        """Begin with the first step.

        Args:
            network: on the runtime's device; with a ``backbone_lr`` of 0 it stays as it is.
            head: likewise.
            loader: the training images, one view of each.
            truth: the class of each image; or, of images with several labels, whether it has each class; on the device.
            recipe: learning rates and schedule.
            runtime: where and how to compute; its logger receives progress and loss.
            frozen: names of modules of the network that stay in evaluation mode, such as batch norms; their weights are
                trained nevertheless.
            seed: seeds dropout and the like before each step; None: they draw from the global generator.
            what: name of this training for the logger.
        """
        self.network, self.head, self.loader, self.truth = network, head, loader, truth
        self.recipe, self.runtime, self.seed, self.what = recipe, runtime, seed, what
        self.frozen = frozen
        self.done = self._epochs = 0
        self.total_steps = loader.total_steps
        self._total = torch.zeros((), device=truth.device)
        self._bad: set[int] = set()
        self._optimizer = _optimizer(network, head, recipe)

    def run(
        self,
        *,
        after_step: Callable[[], None] = check_interrupted,
        after_epoch: EpochHook | None = None,
        passed: Callable[[Batches], Batches] = iter,
    ) -> None:
        """Train to the end.

        Args:
            after_step: called after each step; it may raise.
            after_epoch: called after each epoch. If it raises, a training that is resumed calls it again.
            passed: passes on the batches, and may time them, or end early.

        Raises:
            UserError: the loss is not finite.
        """
        loader, logger = self.loader, self.runtime.logger
        self._end_epoch(after_epoch)
        self._set_mode()
        with closing(loader.batches(self.done)) as batches:
            steps = logger.progress(passed(batches), self.total_steps - self.done, self.what)
            for progress, batch in steps:
                self._step(progress, batch)
                after_step()
                self._end_epoch(after_epoch)
        if self._bad:
            logger.warning(f"{self.what}: {len(self._bad)} training images could not be decoded and are left out")

    def state_dict(self) -> dict[str, Any]:
        """Everything that follows from the steps so far."""
        return {
            "network": self.network.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "total": self._total,
            "done": self.done,
            "epochs": self._epochs,
            "bad": sorted(self._bad),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            LookupError, RuntimeError, TypeError, ValueError: it is of another training.
        """
        self.network.load_state_dict(state["network"])
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done, self._epochs, self._bad = int(state["done"]), int(state["epochs"]), set(state["bad"])
        self._total = state["total"].to(self._total.device)

    def _set_mode(self) -> None:
        self.network.train(self.recipe.backbone_lr > 0)
        for name in self.frozen:
            self.network.get_submodule(name).eval()

    def _step(self, progress: Progress, batch: Batch) -> None:
        if self.seed is not None:
            torch.manual_seed(self.seed + progress.step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.recipe.factor(progress.epoch)
        self._bad.update(place for place, _ in batch.bad)
        loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._total += loss.detach()
        self.done = progress.step + 1

    def _end_epoch(self, after_epoch: EpochHook | None) -> None:
        """End the epoch if its last step is done."""
        steps, epochs = self.loader.steps_per_epoch, self.recipe.epochs
        if self.done < (self._epochs + 1) * steps:
            return
        number, mean = self._epochs + 1, float(self._total) / steps
        if not math.isfinite(mean):
            raise diverged(self.recipe, f"in epoch {number} of {epochs}")
        if number % max(1, epochs // 10) == 0:
            self.runtime.logger.info(f"{self.what}: epoch {number} of {epochs}, loss {mean:.3f}")
        if after_epoch is not None:
            after_epoch(number, mean)
            self._set_mode()
        self._epochs = number
        self._total.zero_()

    def _loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy, of several labels summed over the classes.

        The slot of an image that cannot be decoded contains another one, so it does not count.
        """
        labels, left_out = self.truth[batch.index], torch.zeros_like(batch.index, dtype=torch.bool)
        if batch.bad:
            places = torch.tensor([place for place, _ in batch.bad], device=labels.device)
            left_out = torch.isin(batch.index, places)
        with torch.set_grad_enabled(self.recipe.backbone_lr > 0):
            features = _features(self.network, batch.views[0], self.runtime.autocast)
        logits = self.head(features)
        if labels.ndim == 1:
            labels = labels.masked_fill(left_out, _IGNORED)
            loss = F.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="sum")
        else:
            each = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
            loss = each.sum(dim=1).masked_fill(left_out, 0).sum()
        return loss / (~left_out).sum().clamp(min=1)


def diverged(recipe: Recipe, when: str) -> UserError:
    """The error for a loss that is not finite.

    Args:
        recipe: of the training.
        when: in which epoch.
    """
    rates = f"{recipe.head_lr:g} of the classifier"
    if recipe.backbone_lr:
        rates += f" or {recipe.backbone_lr:g} of the backbone"
    return UserError(
        f"the loss is not finite {when}: the learning rate {rates} is too high for this network, or its weights are broken; "
        "give a recipe with lower rates, or an earlier checkpoint"
    )


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed Torch's random generators, and restore their state afterwards.

    Args:
        seed: for the generators of the CPU and of ``device``.
        device: a device whose generator is used.
    """
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def enough_memory(recipe: Recipe, preprocessing: Preprocessing) -> Iterator[None]:
    """Context that turns too little memory into one line.

    Args:
        recipe: of the training.
        preprocessing: says how large its images are.

    Raises:
        UserError: there is too little memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"not enough memory to train with batches of {recipe.batch_size} images of {preprocessing.size} pixels: "
            "give a recipe with smaller batches (Recipe.with_batch_size), or another device"
        ) from error


def _optimizer(network: nn.Module, head: nn.Linear, recipe: Recipe) -> torch.optim.SGD:
    parts: list[tuple[nn.Module, float]] = [(head, recipe.head_lr)]
    if recipe.backbone_lr > 0:
        parts.append((network.requires_grad_(True), recipe.backbone_lr))
    groups = [{"params": list(part.parameters()), "initial_lr": lr} for part, lr in parts]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=recipe.weight_decay)


def _features(
    network: nn.Module, views: Float[Tensor, "b c h w"], autocast: torch.dtype | None
) -> Float[Tensor, "b f"]:
    if autocast is None:  # 1.6 times as fast on a CPU (EfficientNet-lite0), and no faster in bfloat16
        views = views.contiguous(memory_format=torch.channels_last)
    with torch.autocast(views.device.type, dtype=autocast, enabled=autocast is not None):
        features: Tensor = network(views)
    return features.float()
