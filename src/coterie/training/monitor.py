"""Watching a run: speed, loss, and the signs of collapse."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from coterie.distributed.collectives import all_reduce_max, all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.errors import UserError
from coterie.optim.schedule import Schedule
from coterie.training.callback import Callback
from coterie.types import Batch, Progress, StepResult, Target

SMALLEST_SPREAD = 0.1
"""Below this the embeddings of different images are nearly one point."""
LARGEST_LOSS = 0.99
"""Above this share of ln K the predictions say nothing about the groups."""
PATIENCE_LINES = 5
"""So many log lines in a row must look collapsed before a warning is given."""
SETTLED_STEPS = 100
"""Before so many steps, and before the end of the first epoch, a loss near ln K is how every run begins."""


class Collapsed(UserError):  # noqa: N818 -- the event, as the option is called
    """The run has collapsed and was asked to stop when it does."""


class NotFinite(UserError):  # noqa: N818
    """The loss or its gradient is no longer a number; nothing was saved since.

    ``seen`` says at which step it began, what loss and gradient were, and which images were looked at.
    """

    def __init__(self, message: str, seen: dict[str, Any] | None = None) -> None:
        """What to do, and what was seen."""
        super().__init__(message)
        self.seen = seen or {}


class Monitor(Callback):
    """Figures of a run, kept on the device and read only once every ``log_steps`` steps.

    A line holds, beside step, epoch, learning rate and speed:

    * ``loss``, the mean since the last line, and ``loss_over_ln_k``: 1 is what predictions that know nothing get;
    * ``groups_used``: groups that were somebody's best within the last ``window`` steps (time for ten assignments a group);
    * ``perplexity`` of the mean assignment since the last line: K when all groups are used alike (a balanced assignment keeps
      it high even in a collapse);
    * ``spread`` of the embeddings: ``sqrt(1 - |mean z|^2)``, 1 when unit rows point everywhere, 0 when all are one point.

    With several heads the figures are those of the worst head.
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
    ) -> None:
        """Watch heads of ``counts`` groups that get ``rows_per_step`` assignments a step; ``write`` takes the lines."""
        self.counts = counts
        self.window = max(log_steps, math.ceil(10 * max(counts) / rows_per_step))
        self.schedule = schedule
        self.log_steps = log_steps
        self.write = write
        self.stop_on_collapse = stop_on_collapse
        # for each group: when it was last somebody's best; one place more for "no group"
        self._last = [torch.full((count + 1,), -self.window - 1, device=device) for count in counts]
        self._mass = [torch.zeros(count + 1, device=device) for count in counts]
        self._z: Tensor | None = None
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._ill: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # step, loss, norm, images of the first that was
        self._steps = 0
        self._images = 0
        self._streak = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def timed(self, batches: Iterable[tuple[Progress, Batch]]) -> Iterator[tuple[Progress, Batch]]:
        """The batches as they are; how long each was waited for is counted."""
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
        """Take in a step; every ``log_steps`` steps, and at the last, read the figures and write a line."""
        self._loss += result.loss.detach()
        self._note_the_first_ill(progress, result)
        total = result.z.float().mean(dim=(0, 1))
        self._z = total if self._z is None else self._z + total
        for target in result.targets:
            self._take(target, progress.step)
        self._steps += 1
        self._images += result.z.shape[1]
        if (progress.step + 1) % self.log_steps == 0 or progress.step + 1 == progress.total_steps:
            self._line(progress)

    def check_finite(self) -> None:
        """Raise :class:`NotFinite` unless loss and gradient were numbers at every step; waits for the device."""
        if self._ill is None or int(self._ill[0]) < 0:
            return
        step, loss, norm, images = (each.tolist() for each in self._ill)
        raise NotFinite(
            f"loss {loss:g}, gradient {norm:g} at step {step} are not numbers; what was saved is from before. Go on with --set "
            "run.precision=float32 if it was bfloat16, or begin again with another --out and a lower learning_rate.peak",
            {"step": step, "loss": str(loss), "gradient_norm": str(norm), "images": images},
        )

    def _note_the_first_ill(self, progress: Progress, result: StepResult) -> None:
        """Keep, on the device, what the first step looked like whose loss or gradient is not a number."""
        norm = result.loss.detach() if result.gradient_norm is None else result.gradient_norm
        step = torch.full((), progress.step, device=norm.device)
        now = (step, result.loss.detach(), norm, result.index)
        if self._ill is None:
            self._ill = (torch.full_like(step, -1), *now[1:])
        ill = ~(now[1].isfinite() & norm.isfinite()) & (self._ill[0] < 0)
        self._ill = tuple(torch.where(ill, new, old) for new, old in zip(now, self._ill, strict=True))  # type: ignore[assignment]

    def _take(self, target: Target, step: int) -> None:
        last, mass, count = self._last[target.head], self._mass[target.head], self.counts[target.head]
        if target.values.dtype.is_floating_point:
            best = target.values.argmax(dim=1)
            mass[:count] += target.values.mean(dim=0)
        else:
            best = target.values.where(target.values >= 0, count)
            mass.index_add_(0, best, torch.full_like(best, 1 / len(best), dtype=mass.dtype))
        last[best] = step

    def _line(self, progress: Progress) -> None:
        self.check_finite()
        assert self._z is not None
        loss_sum, z, masses, lasts = self._of_all()
        assert z is not None
        used, perplexity = [], []
        for last, mass, count in zip(lasts, masses, self.counts, strict=True):
            used.append((int((last[:count] > progress.step - self.window).sum()), count))
            share = mass[:count] / mass[:count].sum().clamp(min=1e-12)
            perplexity.append(float(torch.special.entr(share).sum().exp()))
        fewest, count = min(used, key=lambda pair: pair[0] / pair[1])
        loss = loss_sum.item() / self._steps
        elapsed = time.perf_counter() - self._since
        record: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": loss,
            "loss_over_ln_k": loss / (sum(math.log(each) for each in self.counts) / len(self.counts)),
            "lr": self.schedule.at(progress),
            "groups_used": fewest,
            "groups": count,
            "perplexity": min(perplexity),
            "spread": max(0.0, 1 - float((z / self._steps).square().sum())) ** 0.5,
            "images_per_second": self._images * world_size() / elapsed,
            "data_wait": min(1.0, self._waited / elapsed),
        }
        self._forget()
        warning = self._collapse(record, progress)
        if warning:
            record["warning"] = warning
        self.write(record)
        if self.stop_on_collapse and self._streak >= PATIENCE_LINES:
            raise Collapsed(warning or "the run still looks collapsed")

    def _of_all(self) -> tuple[Tensor, Tensor | None, list[Tensor], list[Tensor]]:
        """Loss, z, masses and last uses over all processes: means, and for the last uses the latest; two collectives."""
        if world_size() == 1:
            return self._loss, self._z, self._mass, self._last
        z = torch.zeros(0) if self._z is None else self._z
        parts = [self._loss[None], z.to(self._loss), *(mass.to(self._loss) for mass in self._mass)]
        lengths = [len(part) for part in parts]
        loss, mean, *masses = torch.split(all_reduce_sum(torch.cat(parts)) / world_size(), lengths)
        lasts = torch.split(all_reduce_max(torch.cat(self._last)), [count + 1 for count in self.counts])
        found = None if self._z is None else mean.to(self._z)
        return loss[0], found, [mass.to(own) for mass, own in zip(masses, self._mass, strict=True)], list(lasts)

    def _forget(self) -> None:
        for mass in self._mass:
            mass.zero_()
        self._z = None
        self._loss.zero_()
        self._steps = self._images = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    def _collapse(self, record: dict[str, Any], progress: Progress) -> str | None:
        """A warning, once, when the figures have looked collapsed for some lines in a row."""
        one_point = record["spread"] < SMALLEST_SPREAD
        settled = progress.step >= max(SETTLED_STEPS, progress.steps_per_epoch)
        knows_nothing = settled and record["loss_over_ln_k"] > LARGEST_LOSS
        self._streak = self._streak + 1 if one_point or knows_nothing else 0
        if self._streak != PATIENCE_LINES:
            return None
        what = "all images get nearly the same embedding" if one_point else "the predictions know nothing of the groups"
        return (
            f"the run looks collapsed: {what} (loss / ln K {record['loss_over_ln_k']:.3f}, spread {record['spread']:.3f}, "
            f"{record['groups_used']} of {record['groups']} groups used). Try a lower learning_rate.peak, fewer groups or, "
            "where the method has them, a smaller assignment.temperature or more groups.frozen_steps (docs/pretrain.md)"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to write the lines that the whole one would, on as many processes as it likes."""
        loss, z, masses, lasts = self._of_all()
        return {
            "last": lasts,
            "mass": masses,
            "z": z,
            "loss": loss,
            "steps": self._steps,
            "images": self._images,
            "streak": self._streak,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        device = self._loss.device
        self._last = [each.to(device) for each in state["last"]]
        self._mass = [each.to(device) for each in state["mass"]]
        self._z = None if state["z"] is None else state["z"].to(device)
        self._loss = state["loss"].to(device)
        self._steps, self._images, self._streak = state["steps"], 0, state["streak"]
