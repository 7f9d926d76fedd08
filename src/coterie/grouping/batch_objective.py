"""The objective of methods whose groups are the embeddings of the batch itself: SimCLR and ReSA."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.distributed.collectives import all_gather, local_chunk
from coterie.grouping.assignment import Assignment, assign
from coterie.grouping.loss import at_least_float32, cosine_scores, prediction_loss
from coterie.grouping.objective import Encode
from coterie.grouping.regularizers import Regularizer, regularize
from coterie.grouping.teacher import SameNetwork, TargetNetwork
from coterie.types import Batch, Progress, Roles, StepResult, Target


@final
@dataclass(frozen=True)
class BatchGroupsConfig:
    """Settings of groups that last one step: the target embeddings of the batch are the centers.

    Attributes:
        gradient: let the gradient flow through the centers too (SimCLR).
    """

    gradient: bool = False


@final
@dataclass(frozen=True)
class Identity:
    """Assignment of each image to its own group: instance discrimination (SimCLR)."""


@final
class BatchObjective(nn.Module):
    """The loss of one batch whose own embeddings are the groups; called like :class:`~coterie.grouping.objective.Objective`.

    With ``Identity``: SimCLR with several crops (Caron et al. 2020, SwAV, arXiv 2006.09882, appendix A.8). Each view has to
    find one other view of its image among all views of the other images; the remaining views of its own image are neither
    positives nor negatives. With two views this is NT-Xent (Chen et al. 2020, arXiv 2002.05709, eq. 1).

    With any other assignment: ReSA (Weng et al. 2025). The codes assign the student's features of the first target view to the
    target network's features of the same view, over all images of the batch; every student view predicts them by its
    similarity to every other view of the target network. Each process has its share of the rows, and all groups::

        codes = assignment(h . h_target)            q_ij = softmax(p_i . z_target_j / tau)
    """

    def __init__(
        self,
        assignment: Assignment | Identity,
        roles: Roles,
        *,
        target: TargetNetwork | None = None,
        temperature: float = 0.1,
        gradient: bool = False,
        regularizer: Regularizer | None = None,
    ) -> None:
        """Combine the parts.

        Args:
            assignment: ``Identity()`` for SimCLR; another kind for ReSA.
            roles: which view plays which part; with ``Identity`` all student views are target views.
            target: network whose embeddings are the groups; None: the student.
            temperature: tau, of the prediction. SimCLR with several crops: 0.1; ReSA: 0.4.
            gradient: let the gradient flow through the centers too.
            regularizer: what keeps embeddings from collapsing, besides the other images; None: nothing.
        """
        super().__init__()
        if isinstance(assignment, Identity):  # every view is a positive of the others
            roles = replace(roles, target_views=roles.student_views)
        self.assignment, self.roles, self.temperature, self.gradient = assignment, roles, temperature, gradient
        self.target, self.regularizer = target or SameNetwork(), regularizer

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        """Compute the loss of one batch, as the class describes.

        Args:
            student: encodes the student views ``[B, C, H, W]``: h ``[V, B, F]``, unit z and p ``[V, B, D]``.
            batch: the views of B images, which are the groups of this step.
            progress: where the step is in the run.

        Returns:
            The loss, with gradient, and what it was computed from.
        """
        roles = self.roles.at(progress)
        self.target.before_step(progress)
        h, z, p = student([batch.views[v] for v in roles.student_views])
        features, embeddings = self.target.embed(batch.views, roles, h, z)
        with torch.autocast(z.device.type, enabled=False):
            rows = _gather_rows(embeddings if self.gradient else embeddings.detach())
            if isinstance(self.assignment, Identity):
                centers, targets = [rows.flatten(0, 1)], self._own_images(rows, roles)
            else:
                own = h[roles.student_views.index(roles.target_views[0])]
                centers, targets = list(rows), self._codes(own, features[0], roles, progress)
            loss = prediction_loss(p, centers, targets, self.temperature, roles.student_views)
            loss, term, squares = regularize(self.regularizer, loss, z, p, centers, self.temperature)
        return StepResult(loss, z.detach(), targets, batch.index, regularization=term, gradient_squares=squares)

    def _own_images(self, rows: Float[Tensor, "a b d"], roles: Roles) -> list[Target]:
        """One target per view: the column of the same image in that view, without the image's other columns."""
        views, images = rows.shape[:2]
        every = torch.arange(images, device=rows.device)
        own = local_chunk(every, 0)
        same = every.repeat(views) == own[:, None]  # [B, A B]: the columns of the row's own image
        return [Target(a * images + own, 0, view, same) for a, view in enumerate(roles.target_views)]

    @torch.no_grad()
    def _codes(
        self, own: Float[Tensor, "b f"], theirs: Float[Tensor, "b f"], roles: Roles, progress: Progress
    ) -> list[Target]:
        """One target per view, all with the same codes: the assignment between student and target network."""
        assert not isinstance(self.assignment, Identity)
        own, theirs = (F.normalize(at_least_float32(each), dim=1) for each in (own, theirs))
        scores = cosine_scores(own, _gather_rows(theirs[None])[0])
        codes = assign(self.assignment, scores, progress)
        return [Target(codes, head, view) for head, view in enumerate(roles.target_views)]

    def needs_fill(self) -> bool:
        """Return False: there is no memory to fill."""
        return False

    def fill(self, student: Encode, batches: Iterable[tuple[Progress, Batch]]) -> None:
        """Do nothing: there is no memory to fill. Arguments as in ``Objective.fill``."""

    def refresh_due(self, progress: Progress) -> bool:
        """Return False: the groups last one step. Arguments as in ``Objective.refresh_due``."""
        return False

    def refresh(self, progress: Progress) -> None:
        """Do nothing: the groups last one step. Arguments as in ``Objective.refresh``."""

    def after_backward(self, progress: Progress) -> None:
        """Do nothing: the groups are no parameters. Arguments as in ``Objective.after_backward``."""

    def after_step(self, progress: Progress) -> None:
        """Act after the optimizer's step: the teacher follows.

        Args:
            progress: position of the step.
        """
        self.target.after_step(progress)


def _gather_rows(rows: Float[Tensor, "a b d"]) -> Float[Tensor, "a n d"]:
    """Gather the rows of all processes in their order, with gradient; one collective."""
    return all_gather(rows).movedim(0, 1).flatten(1, 2)
