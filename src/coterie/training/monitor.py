"""Metrics of a run: speed, loss, and signs of collapse."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from coterie.distributed.collectives import all_gather, all_reduce_max, all_reduce_sum
from coterie.distributed.processes import rank, world_size
from coterie.errors import UserError
from coterie.grouping.gradient_share import gradient_share
from coterie.optim.schedule import Schedule
from coterie.training.callback import Callback
from coterie.types import Batch, Progress, StepResult, Target

SMALLEST_SPREAD = 0.1
"""Below this spread the embeddings of different images are nearly one point."""
LARGEST_LOSS = 0.99
"""Above this share of ln K the predictions contain no information about the groups."""
PATIENCE_LINES = 5
"""How many log lines in a row must look collapsed before there is a warning."""
SETTLED_STEPS = 100
"""Before this step, and before the end of the first epoch, every run has a loss near ln K."""
LARGEST_REGULARIZER = 0.8
"""Above this share of the gradient, four times that of the predictions, no run has learned anything (docs/methods.md)."""
WHOLESOME_REGULARIZER = 0.2
"""The share of the gradient that the suggested weight would have, about; what helped had 0.07 to 0.3."""


class Collapsed(UserError):  # noqa: N818 -- the event, as the option is called
    """The run has collapsed, and ``run.on_collapse`` is ``stop``."""


class NotFinite(UserError):  # noqa: N818
    """The loss or its gradient is no longer finite; nothing was saved since.

    Attributes:
        details: the first step at which this happened, its loss, gradient and images.
    """

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        """Create the error.

        Args:
            message: what happened and what to do.
            details: where it happened.
        """
        super().__init__(message)
        self.details = details or {}


class Monitor(Callback):
    """Accumulates metrics on the device and reads them only once every ``log_steps`` steps, to write a line of the log.

    Besides step, epoch, learning rate and speed, a line holds:

    * ``loss``, the mean since the last line; ``regularization``, the share of it that is a regularizer's, if there is one; and
      ``loss_over_ln_k`` of the rest: 1 for predictions without any information;
    * ``regularizer_gradient``: the regularizer's share of the gradient at the embeddings, from 0 to 1, if there is one;
    * ``groups_used``: groups that were the best of some row within the last ``window`` steps (ten assignments per group);
    * ``perplexity`` of the mean assignment since the last line: K when all groups are used alike (a balanced assignment keeps
      it high even in a collapse);
    * ``spread`` of the embeddings: ``sqrt(1 - |mean z|^2)``, 1 when unit rows point everywhere, 0 when all are one point;
    * ``data_wait``: the share of the time that training waited for data.

    With several heads, the metrics are those of the worst head.
    """

    every_process = True

    def __init__(
        self,
        counts: tuple[int, ...],
        rows_per_step: int,
        schedule: Schedule,
        *,
        log_steps: int,
        write: Callable[[dict[str, Any]], None],
        device: torch.device | str = "cpu",
        stop_on_collapse: bool = False,
        regularizer_weight: float | None = None,
    ) -> None:
        """Prepare to monitor a run.

        Args:
            counts: number of groups of each head.
            rows_per_step: assignments of each head per step.
            schedule: the learning rate, for the log.
            log_steps: steps between two lines.
            write: receives each line.
            device: device of the results.
            stop_on_collapse: raise :class:`Collapsed` in addition to the warning.
            regularizer_weight: of the regularizer, for the weight that a warning suggests; None: unknown.
        """
        self.counts = counts
        self.window = max(log_steps, math.ceil(10 * max(counts) / rows_per_step))
        self.schedule = schedule
        self.log_steps = log_steps
        self.write = write
        self.stop_on_collapse = stop_on_collapse
        self.regularizer_weight = regularizer_weight
        # for each group, the last step at which it was the best of a row; one more entry for rows without a group
        self._last = [torch.full((count + 1,), -self.window - 1, device=device) for count in counts]
        self._mass = [torch.zeros(count + 1, device=device) for count in counts]
        self._z: Tensor | None = None
        # in all, and of the regularizer; the squared gradients of predictions and regularizer
        self._loss = torch.zeros(4, dtype=torch.float64, device=device)
        self._regularized = False
        # step, loss, gradient norm, images, and whether only the regularizer was to blame, of the first step that was not
        # finite; step -1: none was
        self._first_not_finite: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None
        self._predicts_groups = True  # a custom objective may have no targets: then ln K says nothing about its loss
        self._steps = 0
        self._images = 0
        self._streak = 0
        self._warned_of_regularizer = False
        self._waited = 0.0
        self._since = time.perf_counter()

    def timed(self, batches: Iterable[tuple[Progress, Batch]]) -> Iterator[tuple[Progress, Batch]]:
        """Pass on the batches, and measure how long each is waited for."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        """Accumulate a step; every ``log_steps`` steps, and at the last, read the metrics and write a line."""
        self._loss[0] += result.loss.detach()
        if result.regularization is not None:
            self._regularized = True
            self._loss[1] += result.regularization
        if result.gradient_squares is not None:
            self._loss[2:] += result.gradient_squares
        self._predicts_groups = bool(result.targets)
        self._keep_first_not_finite(progress, result)
        total = result.z.float().mean(dim=(0, 1))
        self._z = total if self._z is None else self._z + total
        for target in result.targets:
            self._accumulate(target, progress.step)
        self._steps += 1
        self._images += result.z.shape[1]
        if (progress.step + 1) % self.log_steps == 0 or progress.step + 1 == progress.total_steps:
            self._write_line(progress)

    def check_finite(self) -> None:
        """Check that loss and gradient were finite at every step; waits for the device.

        Raises:
            NotFinite: they were not.
        """
        if self._first_not_finite is None or int(self._first_not_finite[0]) < 0:
            return
        step, loss, norm, images, of_regularizer = (each.tolist() for each in self._first_not_finite)
        details = {"step": step, "loss": str(loss), "gradient_norm": str(norm), "images": images}
        if of_regularizer:
            raise NotFinite(
                f"loss {loss:g} at step {step} is not finite because of the regularizer; the last checkpoint is from before. "
                "Start over with another --out and a smaller regularizer.weight, or the defaults of its other settings",
                details,
            )
        lower = "learning_rate.peak or regularizer.weight" if self._regularized else "learning_rate.peak"
        raise NotFinite(
            f"loss {loss:g}, gradient {norm:g} at step {step} are not finite; the last checkpoint is from before. Resume with "
            f"--set run.precision=float32 if it was bfloat16, or start over with another --out and a lower {lower}",
            details,
        )

    def _keep_first_not_finite(self, progress: Progress, result: StepResult) -> None:
        """Keep, on the device, the first step whose loss or gradient is not finite."""
        norm = result.loss.detach() if result.gradient_norm is None else result.gradient_norm
        step = torch.full((), progress.step, device=norm.device)
        of_regularizer = torch.zeros_like(step, dtype=torch.bool)
        if result.regularization is not None:  # embeddings that are finite, and a term of theirs that is not
            of_regularizer = ~result.regularization.isfinite() & result.z.isfinite().all()
        now = (step, result.loss.detach(), norm, result.index, of_regularizer)
        kept = self._first_not_finite or (torch.full_like(step, -1), *now[1:])
        first = ~(now[1].isfinite() & norm.isfinite()) & (kept[0] < 0)
        new = (torch.where(first, fresh, old) for fresh, old in zip(now, kept, strict=True))
        self._first_not_finite = tuple(new)  # type: ignore[assignment]

    def _accumulate(self, target: Target, step: int) -> None:
        last, mass, count = self._last[target.head], self._mass[target.head], self.counts[target.head]
        if target.values.dtype.is_floating_point:
            best = target.values.argmax(dim=1)
            mass[:count] += target.values.mean(dim=0)
        else:
            best = target.values.where(target.values >= 0, count)
            mass.index_add_(0, best, torch.full_like(best, 1 / len(best), dtype=mass.dtype))
        last[best] = step

    def _write_line(self, progress: Progress) -> None:
        self.check_finite()
        assert self._z is not None
        losses, z, masses, lasts = self._over_processes()
        assert z is not None
        used, perplexity = [], []
        for last, mass, count in zip(lasts, masses, self.counts, strict=True):
            used.append((int((last[:count] > progress.step - self.window).sum()), count))
            share = mass[:count] / mass[:count].sum().clamp(min=1e-12)
            perplexity.append(float(torch.special.entr(share).sum().exp()))
        fewest, count = min(used, key=lambda pair: pair[0] / pair[1])
        loss, regularization = (losses[:2] / self._steps).tolist()
        regularizer_share = gradient_share(losses[2:])
        elapsed = time.perf_counter() - self._since
        record: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": loss,
            **({"regularization": regularization} if self._regularized else {}),
            **({"regularizer_gradient": regularizer_share} if regularizer_share is not None else {}),
            "loss_over_ln_k": (loss - regularization)
            / (sum(math.log(each) for each in self.counts) / len(self.counts)),
            "lr": self.schedule.at(progress),
            "groups_used": fewest,
            "groups": count,
            "perplexity": min(perplexity),
            "spread": max(0.0, 1 - float((z / self._steps).square().sum())) ** 0.5,
            "images_per_second": self._images * world_size() / elapsed,
            "data_wait": min(1.0, self._waited / elapsed),
        }
        self._reset()
        warning = self._collapse_warning(record, progress)
        warnings = [each for each in (warning, self._regularizer_warning(regularizer_share, progress)) if each]
        if warnings:
            record["warning"] = "; ".join(warnings)
        self.write(record)
        if self.stop_on_collapse and self._streak >= PATIENCE_LINES:
            raise Collapsed(warning or "the run still looks collapsed")

    def _over_processes(self) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor]]:
        """Means of loss, z and masses over all processes, and the latest use of each group; two collectives."""
        if world_size() == 1:
            return self._loss, self._z, self._mass, self._last
        parts = self._own()
        lengths = [len(part) for part in parts]
        loss, mean, *masses = torch.split(all_reduce_sum(torch.cat(parts)) / world_size(), lengths)
        lasts = torch.split(all_reduce_max(torch.cat(self._last)), [count + 1 for count in self.counts])
        mean_z = None if self._z is None else mean.to(self._z)
        return loss, mean_z, [mass.to(own) for mass, own in zip(masses, self._mass, strict=True)], list(lasts)

    def _own(self) -> list[Tensor]:
        """What this process has accumulated: loss, z and masses, in one precision."""
        z = torch.zeros(0) if self._z is None else self._z
        return [self._loss, z.to(self._loss), *(mass.to(self._loss) for mass in self._mass)]

    def _reset(self) -> None:
        for mass in self._mass:
            mass.zero_()
        self._z = None
        self._loss.zero_()
        self._steps = self._images = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def _collapse_warning(self, record: dict[str, Any], progress: Progress) -> str | None:
        """A warning, once, when some lines in a row have looked collapsed."""
        one_point = record["spread"] < SMALLEST_SPREAD
        settled = progress.step >= max(SETTLED_STEPS, progress.steps_per_epoch)
        uninformed = settled and self._predicts_groups and record["loss_over_ln_k"] > LARGEST_LOSS
        self._streak = self._streak + 1 if one_point or uninformed else 0
        if self._streak != PATIENCE_LINES:
            return None
        what = (
            "all images have nearly the same embedding" if one_point else "the predictions do not depend on the image"
        )
        lighter = " a smaller regularizer.weight," if self._regularized else ""
        return (
            f"the run looks collapsed: {what} (loss / ln K {record['loss_over_ln_k']:.3f}, spread {record['spread']:.3f}, "
            f"{record['groups_used']} of {record['groups']} groups used). Try{lighter} a lower learning_rate.peak, fewer "
            "groups or, where the method has them, a smaller assignment.temperature or more groups.frozen_steps "
            "(docs/pretrain.md)"
        )

    def _regularizer_warning(self, share: float | None, progress: Progress) -> str | None:
        """A warning, once, when the regularizer leaves the predictions next to nothing of what trains the network."""
        early = progress.step + 1 < min(SETTLED_STEPS, progress.steps_per_epoch)
        if self._warned_of_regularizer or early or share is None or share <= LARGEST_REGULARIZER:
            return None
        self._warned_of_regularizer = True
        weight = "..., a smaller one"
        if self.regularizer_weight is not None and share < 1:  # the gradient is proportional to the weight
            wholesome = WHOLESOME_REGULARIZER / (1 - WHOLESOME_REGULARIZER) * (1 - share) / share
            weight = f"{self.regularizer_weight * wholesome:.1g} or less"
        return (
            f"the regularizer is too heavy: {100 * share:.1f} % of the gradient is its own, and the predictions hardly train "
            f"the network. Start over with another --out and --set regularizer.weight={weight}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The state with which a resumed run, on any number of processes, writes the lines of an uninterrupted one."""
        loss, z, masses, lasts = self._over_processes()
        return {
            "last": lasts,
            "mass": masses,
            "z": z,
            "loss": loss,
            "steps": self._steps,
            "images": self._images,
            "streak": self._streak,
            "warned_of_regularizer": self._warned_of_regularizer,
            "of_each": all_gather(torch.cat(self._own())) if world_size() > 1 else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from :meth:`state_dict`."""
        device = self._loss.device
        self._last = [each.to(device) for each in state["last"]]
        self._mass = [each.to(device) for each in state["mass"]]
        self._z = None if state["z"] is None else state["z"].to(device)
        self._loss = torch.zeros_like(self._loss)
        self._loss[: state["loss"].numel()] = state["loss"].to(
            device
        )  # one number or two in checkpoints of earlier versions
        self._steps, self._images, self._streak = state["steps"], 0, state["streak"]
        self._warned_of_regularizer = state.get("warned_of_regularizer", False)
        of_each = state.get("of_each")
        if of_each is not None and world_size() == len(of_each):  # means would be rounded in another way
            lengths = [
                state["loss"].numel(),
                0 if self._z is None else len(self._z),
                *(len(mass) for mass in self._mass),
            ]
            loss, z, *masses = torch.split(of_each[rank()].to(device), lengths)
            self._loss[: len(loss)], self._z = loss, None if self._z is None else z.to(self._z)
            self._mass = [mass.to(own) for mass, own in zip(masses, self._mass, strict=True)]
