"""The objective of methods with lasting groups: it combines target network, groups, assignment and memory into a loss."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.distributed.processes import check_interrupted_together, interruptible, world_size
from coterie.errors import BadConfig
from coterie.grouping.assignment import Assignment, assign, label_passes, label_rows
from coterie.grouping.groups import Groups, KMeansGroups, MomentumGroups
from coterie.grouping.kmeans import ITERATIONS, Tick, random_starts
from coterie.grouping.loss import cosine_scores, prediction_loss
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.regularizers import Regularizer, regularize
from coterie.grouping.teacher import SameNetwork, TargetNetwork
from coterie.types import Batch, Progress, Roles, StepResult, Target

Encode = Callable[[list[Tensor]], tuple[Tensor, Tensor, Tensor]]
"""Any callable that turns views into features h, unit embeddings z and unit predictions p, each ``[V, B, ...]``."""

ShowProgress = Callable[[Iterable[int], int, str], Iterable[int]]
"""Passes on items, of which there are so many, while showing the progress of work with that name."""
REFRESH = "finding groups and labels"
"""What a refresh is called where its progress is shown."""


@final
class Objective(nn.Module):
    """The loss of one batch, computed in the same way for every method with lasting groups.

    One step::

        h, z, p = student(student views)    # features, unit embeddings, unit predictions
        targets = labels[index] if labels are kept, else
                  assignment(target network's z of the target views [+ memory rows] @ centers)
        centers = groups.update_centers(z of the grouped views)
        memory.push(z of the student or of the target network, index)
        loss    = prediction_loss(p, centers, targets) + regularizer.weight * regularizer(z, p, centers)
        backward -> after_backward (frozen groups lose their gradient) -> optimizer -> after_step (unit centers, teacher)

    SwAV: Caron et al. 2020, arXiv 2006.09882, section 3; SMoG: Pang et al. 2022, arXiv 2207.06167. The objective needs tensors
    and one callable, so it works in any training loop; ``examples/own_loop.py`` is one. The groups are parameters of the
    student: the objective refers to them and does not save them.
    """

    labels: Tensor | None
    show_progress: ShowProgress | None = None

    def __init__(
        self,
        groups: Groups,
        assignment: Assignment,
        roles: Roles,
        *,
        target: TargetNetwork | None = None,
        temperature: float = 0.1,
        memory: Memory | None = None,
        rows_from: Literal["student", "target"] = "student",
        refresh: Refresh | None = None,
        images: int = 0,
        regularizer: Regularizer | None = None,
        seed: int = 0,
    ) -> None:
        """Combine the parts.

        Args:
            groups: the student's groups.
            assignment: turns scores into targets.
            roles: which view plays which part.
            target: network whose embeddings decide the targets; None: the student.
            temperature: tau, of the prediction. SwAV: 0.1.
            memory: past embeddings. With a refresh they serve it; without one they are balanced together with the batch.
            rows_from: whose embeddings the memory keeps: those of the student or of the target network.
            refresh: when to recompute groups from the memory; None: never.
            images: number of images in the source; needed only if the refresh keeps labels.
            regularizer: what keeps embeddings or groups from collapsing, besides the assignment; None: nothing.
            seed: seed of the initial centers of k-means.

        Raises:
            BadConfig: a refresh without a memory, or labels without the number of images.
        """
        super().__init__()
        self._groups = (groups,)  # a tuple keeps torch from registering the groups a second time
        self.assignment, self.roles, self.temperature = assignment, roles, temperature
        self.target = target or SameNetwork()
        self.memory, self.rows_from, self.refresh_rule = memory, rows_from, refresh
        self.regularizer, self.seed = regularizer, seed
        if refresh is not None and memory is None:
            raise BadConfig("a refresh reads the memory, and there is none: pass a Memory, or leave the refresh out")
        keeps = refresh is not None and refresh.labels
        if keeps and images < 1:
            raise BadConfig(f"images is {images}: a refresh that keeps labels needs the number of images in the source")
        labels = torch.full((len(groups.centers()), images), -100, dtype=torch.int32) if keeps else None
        self.register_buffer("labels", labels)

    @property
    def groups(self) -> Groups:
        """The groups, whose parameters belong to the student."""
        return self._groups[0]

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        """Compute the loss of one batch; the class docstring lists the operations in order.

        Args:
            student: encodes the student views.
            batch: the views of B images.
            progress: position of the step.

        Returns:
            The loss, with gradient, and the embeddings and targets that it was computed from.
        """
        roles = self.roles.at(progress)
        self.target.before_step(progress)
        h, z, p = student([batch.views[v] for v in roles.student_views])
        _, decided = self.target.embed(batch.views, roles, h, z)
        with torch.autocast(z.device.type, enabled=False):
            grouped = torch.stack([z[roles.student_views.index(v)] for v in roles.grouped_views])
            if self.labels is not None:  # they come from no view of this batch
                targets = [Target(kept[batch.index].long(), head, None) for head, kept in enumerate(self.labels)]
            else:
                targets = self.targets(decided, roles, progress)
            centers = self.groups.update_centers(grouped, progress)
            if self.memory is not None:
                self.memory.push(grouped if self.rows_from == "student" else decided, batch.index, progress)
            loss = prediction_loss(p, centers, targets, self.temperature, roles.student_views)
            loss, term, squares = regularize(self.regularizer, loss, z, p, centers, self.temperature)
        return StepResult(loss, z.detach(), targets, batch.index, regularization=term, gradient_squares=squares)

    @torch.no_grad()
    def targets(self, z: Float[Tensor, "a b d"], roles: Roles, progress: Progress) -> list[Target]:
        """Assign the target views to the groups of each head; the rows of a full queue are balanced together with them.

        SwAV, section 3.1, and appendix A.6 for the queue, whose rows are scored with the current centers.

        Args:
            z: unit embeddings of the target views.
            roles: roles of this step.
            progress: position of the step.

        Returns:
            One target per head and target view, head by head.
        """
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
            scores = cosine_scores(rows, centers)
            codes = assign(self.assignment, scores, progress, head, last=z.shape[1])
            self.assignment.update_statistics(scores[:, -z.shape[1] :], head)
            found += [Target(codes[a], head, view) for a, view in enumerate(roles.target_views)]
        return found

    def needs_fill(self) -> bool:
        """Return whether the memory has to be filled by a pass over the images before the first step."""
        return self.refresh_rule is not None and self.memory is not None and self.memory.pushed == 0

    @torch.no_grad()
    def fill(self, student: Encode, batches: Iterable[tuple[Progress, Batch]]) -> None:
        """Fill the memory with the student's embeddings; each grouped view is a separate forward pass.

        As in the released code of DeepCluster-v2 and SMoG.

        Args:
            student: encodes the views.
            batches: one pass over the images, each batch with its position.

        Raises:
            Interrupted: a signal stops the run; in all processes before the same batch.
        """
        assert self.memory is not None
        for progress, batch in batches:
            check_interrupted_together()
            rows = [student([batch.views[v]])[1][0] for v in self.roles.grouped_views]
            self.memory.push(torch.stack(rows), batch.index, progress)

    def refresh_due(self, progress: Progress) -> bool:
        """Return whether :meth:`refresh` is due before this step.

        Args:
            progress: position of the step.
        """
        return self.refresh_rule is not None and self.refresh_rule.due(progress)

    @torch.no_grad()
    def refresh(self, progress: Progress) -> None:
        """Recompute the groups and the labels from the memory and reset the teacher, as the refresh rule says.

        Head h reads the rows of grouped view ``h mod G``. DeepCluster-v2: SwAV's appendix D.2; SMoG: released code. A caller
        that sets ``show_progress`` sees how far it is.

        Args:
            progress: position of the next step.

        Raises:
            Interrupted: a signal stops the run. Everything is then as it was before, and so can be saved.
        """
        before = [(part, copy.deepcopy(part.state_dict())) for part in self._refreshed_parts()]
        try:
            with interruptible(), self._showing_rounds() as tick:
                labels = self._refresh(progress, tick)
        except BaseException:
            for part, state in before:
                part.load_state_dict(state)
            raise
        if self.labels is not None and labels is not None:
            self.labels.copy_(labels)

    def _refreshed_parts(self) -> list[nn.Module]:
        """What a refresh changes before it is done; the labels are replaced at its end."""
        assert self.refresh_rule is not None
        parts: list[object] = [self.groups] if self.groups.refits else []
        if self.refresh_rule.labels:
            parts += [self.assignment, *([self.target] if self.refresh_rule.reset_teacher else [])]
        return [each for each in parts if isinstance(each, nn.Module)]

    def _refresh(self, progress: Progress, tick: Tick) -> Tensor | None:
        """Recompute the groups, and return the new labels."""
        assert self.memory is not None
        assert self.refresh_rule is not None
        count = self.memory.written
        for head in range(len(self.groups.centers())):
            rows = self.memory.rows[head % len(self.memory.rows), :count]
            if self.groups.refits:
                groups = len(self.groups.centers()[head])
                starts = random_starts(count * world_size(), groups, self.seed, progress.step, head)
                slot = head % len(self.memory.rows)
                self._refit(head, rows, self.memory.at(slot, starts.to(rows.device)), tick)
        if self.refresh_rule.reset_teacher:
            self.target.copy_from_student()
        if self.labels is None:
            return None
        found = torch.full_like(self.labels, -100)
        index = self.memory.in_order(self.memory.index[:count])
        newest = self.memory.newest(index)
        for head, centers in enumerate(self.target.centers(self.groups)):
            rows = self.memory.rows[head % len(self.memory.rows), :count]
            own = label_rows(self.assignment, rows, centers, progress, head, tick).to(torch.int32)
            labels = self.memory.in_order(own)
            found[head, index[newest]] = labels[newest]
        return found

    def _refit(self, head: int, rows: Tensor, starts: Tensor, tick: Tick) -> None:
        if isinstance(self.groups, KMeansGroups | MomentumGroups):
            self.groups.refit(head, rows, starts, tick)
        else:  # groups of the user's own do not say how far they are
            self.groups.refit(head, rows, starts)

    @contextmanager
    def _showing_rounds(self) -> Iterator[Tick]:
        """Context of a refresh; yields what is to be called after each of its rounds, to show its progress."""
        own = isinstance(self.groups, KMeansGroups | MomentumGroups)
        passes = label_passes(self.assignment) if self.labels is not None else 0
        count = len(self.groups.centers()) * ((ITERATIONS if own else 0) + passes)
        if self.show_progress is None or not count:
            yield lambda: None
            return
        rounds = iter(self.show_progress(range(count), count, REFRESH))
        next(rounds, None)  # the first round begins
        yield lambda: next(rounds, None)
        for _ in rounds:  # those that were not needed
            pass

    def after_backward(self, progress: Progress) -> None:
        """Act between ``loss.backward()`` and the optimizer's step: frozen groups lose their gradient.

        Args:
            progress: position of the step.
        """
        self.groups.after_backward(progress)

    def after_step(self, progress: Progress) -> None:
        """Act after the optimizer's step: centers get unit norm and the teacher follows.

        Args:
            progress: position of the step.
        """
        self.groups.after_step(progress)
        self.target.after_step(progress)
