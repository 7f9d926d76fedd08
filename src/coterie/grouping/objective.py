"""The objective that joins groups, assignment and memory to a loss."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.grouping.assignment import Assignment, assign
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.memory import Memory
from coterie.ops.loss import prediction_loss, scores
from coterie.types import Batch, Progress, Roles, StepResult, Target

Encode = Callable[[list[Tensor]], tuple[Tensor, Tensor, Tensor]]
"""Any callable that turns views into backbone outputs h, unit embeddings z and unit predictions p, each ``[V, B, ...]``."""


class Objective(nn.Module):
    """What is learned from one batch, the same for every method.

    One step::

        z, p    = student(views the student sees)
        targets = assignment(z of the target views [+ memory rows] @ centers)
        memory.push(z of the grouped views, index)
        loss    = prediction_loss(p, centers, targets)
        backward -> after_backward (frozen groups lose their gradient) -> optimiser -> after_step (unit centers)

    It works on tensors and one callable, so in anybody's loop. The groups are parameters of the student and tools of the
    objective: they are referred to here and saved there.
    """

    def __init__(
        self,
        groups: LearnedGroups,
        assignment: Assignment,
        roles: Roles,
        *,
        temperature: float = 0.1,
        memory: Memory | None = None,
    ) -> None:
        """Join the parts; ``temperature`` is tau of the prediction."""
        super().__init__()
        self._groups = (groups,)  # in a tuple, so that the module does not register it a second time
        self.assignment = assignment
        self.roles = roles
        self.temperature = temperature
        self.memory = memory

    @property
    def groups(self) -> LearnedGroups:
        """The groups, which the student owns."""
        return self._groups[0]

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        """The loss of one batch (see the class); ``batch`` holds all the views of the plan."""
        seen = self.roles.student_views
        _, z, p = student([batch.views[v] for v in seen])
        with torch.autocast(z.device.type, enabled=False):
            targets = self.targets(torch.stack([z[seen.index(v)] for v in self.roles.target_views]))
            if self.memory is not None:
                self.memory.push(
                    torch.stack([z[seen.index(v)] for v in self.roles.grouped_views]), batch.index, progress
                )
            loss = prediction_loss(p, self.groups.centers(), targets, self.temperature, seen)
        return StepResult(loss, z.detach(), targets)

    @torch.no_grad()
    def targets(self, z: Float[Tensor, "a b d"]) -> list[Target]:
        """The codes of the target views, for each head; the rows of a full memory are balanced beside them."""
        found = []
        for head, centers in enumerate(self.groups.centers()):
            rows = scores(z, centers)
            if self.memory is not None and self.memory.full and self.assignment.pools:
                slots = range(len(self.memory.rows))
                past = torch.stack([scores(self.memory.oldest_first(slot), centers) for slot in slots])
                rows = torch.cat([past, rows], dim=1)
            codes = assign(self.assignment, rows)[:, -z.shape[1] :]
            found += [Target(codes[a], head, view) for a, view in enumerate(self.roles.target_views)]
        return found

    def after_backward(self, progress: Progress) -> None:
        """Between ``loss.backward()`` and the optimiser's step."""
        self.groups.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """After the optimiser's step."""
        self.groups.after_step(progress)
