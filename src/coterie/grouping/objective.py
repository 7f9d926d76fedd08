"""The objective that joins target, groups, assignment and memory to a loss."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.distributed.processes import world_size
from coterie.errors import BadConfig
from coterie.grouping.assignment import Assignment, assign, label_rows
from coterie.grouping.groups import Groups
from coterie.grouping.kmeans import random_starts
from coterie.grouping.loss import mean_entropy_loss, prediction_loss, scores
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.teacher import SameNetwork, TargetNetwork
from coterie.types import Batch, Progress, Roles, StepResult, Target

Encode = Callable[[list[Tensor]], tuple[Tensor, Tensor, Tensor]]
"""Any callable that turns views into backbone outputs h, unit embeddings z and unit predictions p, each ``[V, B, ...]``."""


class Objective(nn.Module):
    """What is learned from one batch, the same for every method.

    One step::

        z, p    = student(views the student sees)
        targets = labels[index], where labels are kept, or
                  assignment(target network's z of the target views [+ memory rows] @ centers)
        centers = groups.update_centers(z of the grouped views)
        memory.push(z of the grouped views, index)
        loss    = prediction_loss(p, centers, targets) + weight * mean_entropy_loss(p, centers)
        backward -> after_backward (frozen groups lose their gradient) -> optimizer -> after_step (unit centers, teacher)

    It works on tensors and one callable, so in anybody's loop. The groups are parameters of the student and tools of the
    objective: they are referred to here and saved there.
    """

    labels: Tensor | None

    def __init__(
        self,
        groups: Groups,
        assignment: Assignment,
        roles: Roles,
        *,
        target: TargetNetwork | None = None,
        temperature: float = 0.1,
        memory: Memory | None = None,
        rows_from: str = "student",
        refresh: Refresh | None = None,
        images: int = 0,
        mean_entropy: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Join the parts.

        Args:
            groups: how the centers move.
            assignment: how scores become targets.
            roles: which view plays which part.
            target: whose embeddings decide; without it, the student's.
            temperature: tau, of the prediction.
            memory: past rows: with a refresh they serve it, without one they are balanced beside the batch.
            rows_from: ``student`` or ``target``, whose rows the memory keeps.
            refresh: when the memory is looked over.
            images: how many the source has; needed where labels are kept.
            mean_entropy: weight of MSN's regularizer.
            seed: of the random starts of k-means.
        """
        super().__init__()
        self._groups = (groups,)  # in a tuple, so that the module does not register it a second time
        self.assignment, self.roles, self.temperature = assignment, roles, temperature
        self.target = target or SameNetwork()
        self.memory, self.rows_from, self.refresh_rule = memory, rows_from, refresh
        self.mean_entropy, self.seed = mean_entropy, seed
        keeps = refresh is not None and refresh.labels
        if keeps and images < 1:
            raise BadConfig("labels are kept for each image of a source: say how many images it has")
        labels = torch.full((len(groups.centers()), images), -100, dtype=torch.int32) if keeps else None
        self.register_buffer("labels", labels)

    @property
    def groups(self) -> Groups:
        """The groups, which the student owns."""
        return self._groups[0]

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        """The loss of one batch (see the class)."""
        roles = self.roles.at(progress)
        self.target.before_step(progress)
        h, z, p = student([batch.views[v] for v in roles.student_views])
        _, decided = self.target.embed(batch.views, roles, h, z)
        with torch.autocast(z.device.type, enabled=False):
            grouped = torch.stack([z[roles.student_views.index(v)] for v in roles.grouped_views])
            if self.labels is not None:  # they came from no view of this batch
                targets = [Target(kept[batch.index].long(), head, None) for head, kept in enumerate(self.labels)]
            else:
                targets = self.targets(decided, roles, progress)
            centers = self.groups.update_centers(grouped, progress)
            if self.memory is not None:
                self.memory.push(grouped if self.rows_from == "student" else decided, batch.index, progress)
            loss = prediction_loss(p, centers, targets, self.temperature, roles.student_views)
            if self.mean_entropy:
                loss = loss + self.mean_entropy * mean_entropy_loss(p, centers, self.temperature)
        return StepResult(loss, z.detach(), targets, batch.index)

    @torch.no_grad()
    def targets(self, z: Float[Tensor, "a b d"], roles: Roles, progress: Progress) -> list[Target]:
        """The codes of the target views, for each head; the rows of a full memory are balanced beside them."""
        found = []
        for head, centers in enumerate(self.target.centers(self.groups)):
            rows = z
            if (
                self.memory is not None
                and self.memory.full
                and self.assignment.uses_memory
                and self.refresh_rule is None
            ):
                rows = torch.cat([self.memory.rows.to(z.dtype), z], dim=1)
            seen = scores(rows, centers)
            codes = assign(self.assignment, seen, progress, head, last=z.shape[1])
            self.assignment.update_statistics(seen[:, -z.shape[1] :], head)
            found += [Target(codes[a], head, view) for a, view in enumerate(roles.target_views)]
        return found

    def needs_fill(self) -> bool:
        """Whether the memory has to be filled by a pass over the images before the first step."""
        return self.refresh_rule is not None and self.memory is not None and self.memory.pushed == 0

    @torch.no_grad()
    def fill(self, student: Encode, batches: Iterable[tuple[Progress, Batch]]) -> None:
        """Fill the memory: each grouped view goes through the student in a pass of its own (releases of SwAV and SMoG)."""
        assert self.memory is not None
        for progress, batch in batches:
            rows = [student([batch.views[v]])[1][0] for v in self.roles.grouped_views]
            self.memory.push(torch.stack(rows), batch.index, progress)

    def refresh_due(self, progress: Progress) -> bool:
        """Whether the memory is to be looked over before this step."""
        return self.refresh_rule is not None and self.refresh_rule.due(progress)

    @torch.no_grad()
    def refresh(self, progress: Progress) -> None:
        """Look over the memory: groups anew, labels anew, the teacher reset; head h watches grouped view ``h mod G``."""
        assert self.memory is not None
        assert self.refresh_rule is not None
        count = self.memory.written
        for head in range(len(self.groups.centers())):
            rows = self.memory.rows[head % len(self.memory.rows), :count]
            if self.groups.refits:
                groups = len(self.groups.centers()[head])
                starts = random_starts(count * world_size(), groups, self.seed, progress.step, head)
                slot = head % len(self.memory.rows)
                self.groups.refit(head, rows, self.memory.at(slot, starts.to(rows.device)))
        if self.refresh_rule.reset_teacher:
            self.target.copy_from_student()
        if self.labels is None:
            return
        index = self.memory.in_order(self.memory.index[:count])
        newest = self.memory.newest(index)
        for head, centers in enumerate(self.target.centers(self.groups)):
            rows = self.memory.rows[head % len(self.memory.rows), :count]
            own = label_rows(self.assignment, rows, centers, progress, head).to(torch.int32)
            labels = self.memory.in_order(own)
            self.labels[head].fill_(-100)
            self.labels[head, index[newest]] = labels[newest]

    def after_backward(self, progress: Progress) -> None:
        """Between ``loss.backward()`` and the optimizer's step."""
        self.groups.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """After the optimizer's step."""
        self.groups.after_step(progress)
        self.target.after_step(progress)
