"""The objective of methods whose groups are the batch's own embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.distributed.collectives import all_gather, local_chunk
from coterie.grouping.assignment import Assignment, assign
from coterie.grouping.loss import at_least_float32, prediction_loss, scores
from coterie.grouping.objective import Encode
from coterie.grouping.teacher import SameNetwork, TargetNetwork
from coterie.types import Batch, Progress, Roles, StepResult, Target


@dataclass(frozen=True)
class BatchGroupsConfig:
    """The batch's own target embeddings are the centers, for one step.

    Attributes:
        gradient: whether the gradient flows through them too (SimCLR).
    """

    gradient: bool = False


@dataclass(frozen=True)
class Identity:
    """Each image is its own group: instance discrimination."""


class BatchObjective(nn.Module):
    """What is learned where the batch's own embeddings are the groups; called as an ``Objective``.

    With ``Identity``, SimCLR with several crops (SwAV, appendix A.8): an anchor has to find one other view of its image among
    all views of the other images; the remaining views of its own image are in neither place. With two views, NT-Xent.

    With any other assignment, ReSA (Weng et al. 2025): the codes are an assignment of the features of the first target view,
    student's against target network's, over the images of the batch; every student view predicts them by its similarity
    to every other view of the target network. Of several processes each has its share of the rows, and all of the groups::

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
    ) -> None:
        """Join the parts; ``temperature`` is tau of the prediction, ``gradient`` lets it flow through the centers."""
        super().__init__()
        if isinstance(assignment, Identity):  # every view is looked for
            roles = replace(roles, target_views=roles.student_views)
        self.assignment, self.roles, self.temperature, self.gradient = assignment, roles, temperature, gradient
        self.target = target or SameNetwork()

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        """The loss of one batch (see the class)."""
        roles = self.roles.at(progress)
        self.target.before_step(progress)
        h, z, p = student([batch.views[v] for v in roles.student_views])
        features, embeddings = self.target.embed(batch.views, roles, h, z)
        with torch.autocast(z.device.type, enabled=False):
            rows = _of_all(embeddings if self.gradient else embeddings.detach())
            if isinstance(self.assignment, Identity):
                centers, targets = [rows.flatten(0, 1)], self._own_images(rows, roles)
            else:
                own = h[roles.student_views.index(roles.target_views[0])]
                centers, targets = list(rows), self._codes(own, features[0], roles, progress)
            loss = prediction_loss(p, centers, targets, self.temperature, roles.student_views)
        return StepResult(loss, z.detach(), targets, batch.index)

    def _own_images(self, rows: Float[Tensor, "a b d"], roles: Roles) -> list[Target]:
        views, images = rows.shape[:2]
        every = torch.arange(images, device=rows.device)
        own = local_chunk(every, 0)
        same = every.repeat(views) == own[:, None]  # [B, A B]: the columns that show the row's own image
        return [Target(a * images + own, 0, view, same) for a, view in enumerate(roles.target_views)]

    @torch.no_grad()
    def _codes(
        self, own: Float[Tensor, "b f"], theirs: Float[Tensor, "b f"], roles: Roles, progress: Progress
    ) -> list[Target]:
        assert not isinstance(self.assignment, Identity)
        own, theirs = (F.normalize(at_least_float32(each), dim=1) for each in (own, theirs))
        similarities = scores(own, _of_all(theirs[None])[0])
        codes = assign(self.assignment, similarities, progress)
        return [Target(codes, head, view) for head, view in enumerate(roles.target_views)]

    def needs_fill(self) -> bool:
        """Nothing is kept from batch to batch."""
        return False

    def fill(self, student: Encode, batches: Iterable[tuple[Progress, Batch]]) -> None:
        """Nothing is filled."""

    def refresh_due(self, progress: Progress) -> bool:
        """Nothing is looked over."""
        return False

    def refresh(self, progress: Progress) -> None:
        """Nothing is looked over."""

    def after_backward(self, progress: Progress) -> None:
        """No group has a gradient of its own."""

    def after_step(self, progress: Progress) -> None:
        """After the optimizer's step."""
        self.target.after_step(progress)


def _of_all(rows: Float[Tensor, "a b d"]) -> Float[Tensor, "a n d"]:
    """The rows of the whole batch, those of the first process first; with gradient, one collective."""
    return all_gather(rows).movedim(0, 1).flatten(1, 2)
