"""Alignment and a regularizer without any groups: what is left of a grouping method when its groups are taken away.

The loss of Wang and Isola (2020, arXiv 2005.10242), whose views attract each other while images repel each other; or with the
coding rate in place of uniformity, EMP-SSL (Tong et al. 2023, arXiv 2304.03977, eq. 1 to 3). Views, network, projector,
optimizer and schedule are those of the preset that it is put into.
"""

import torch
from torch import nn

from coterie.config.schema import PretrainConfig
from coterie.errors import UserError
from coterie.grouping.objective import Encode
from coterie.grouping.regularizers import MeanEntropy, Regularizer, alignment, regularize
from coterie.training.student import Student
from coterie.types import Batch, Progress, StepResult

SETTINGS = ("regularizer={kind='uniformity', weight=1}",)
"""The best of the search (``ideas.py``): with a coding rate of 0.03 it is 4 points worse, and at 0.01 it collapses."""


class Alignment(nn.Module):
    """Alignment of all student views, plus a regularizer of the embeddings."""

    def __init__(self, views: tuple[int, ...], regularizer: Regularizer) -> None:
        super().__init__()
        self.views, self.regularizer = views, regularizer

    def forward(self, student: Encode, batch: Batch, progress: Progress) -> StepResult:
        _, z, p = student([batch.views[view] for view in self.views])
        with torch.autocast(z.device.type, enabled=False):
            loss, term, squares = regularize(self.regularizer, alignment(z), z, p, [], 1.0)
        return StepResult(loss, z.detach(), [], batch.index, regularization=term, gradient_squares=squares)

    def needs_fill(self) -> bool:
        return False

    def fill(self, student: Encode, batches: object) -> None:
        """There is no memory."""

    def refresh_due(self, progress: Progress) -> bool:
        return False

    def refresh(self, progress: Progress) -> None:
        """There are no groups."""

    def after_backward(self, progress: Progress) -> None:
        """Nor do they have a gradient."""

    def after_step(self, progress: Progress) -> None:
        """Nor is there a teacher."""


def build(student: Student, config: PretrainConfig) -> Alignment:
    """The objective of a run, for ``coterie.CustomParts``, with the regularizer of the settings."""
    if config.regularizer is None or isinstance(config.regularizer, MeanEntropy):
        raise UserError("alignment without a regularizer of the embeddings collapses: set regularizer.kind")
    return Alignment(config.views.roles.student_views, config.regularizer)
