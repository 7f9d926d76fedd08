"""The few records that pass between the layers.

Legend of shapes, here and everywhere: B images, V views, A target or grouped views, D width, K groups, N rows, H heads.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``step`` counts from 0 over the whole run, ``step_in_epoch`` within its epoch."""

    step: int
    steps_per_epoch: int
    total_steps: int

    @property
    def epoch(self) -> int:
        """The epoch of this step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """The step within its epoch, from 0."""
        return self.step % self.steps_per_epoch


@dataclass(frozen=True)
class Roles:
    """Which views play which part: what the student sees, what decides the targets, what the groups look at."""

    student_views: tuple[int, ...]
    target_views: tuple[int, ...]
    grouped_views: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """B images seen from V sides.

    Attributes:
        index: position of each image in its source.
        views: one tensor ``[B, C, H, W]`` a view, in the order of the view plan.
        bad: (position in the source, reason) of each image of this batch that could not be decoded.
    """

    index: Int[Tensor, " b"]
    views: tuple[Float[Tensor, "b c _ _"], ...]
    bad: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """What the predictions of one head should be, for every image of the batch.

    Attributes:
        values: a code (a distribution over the K groups), or the number of a group (-100: this image has none).
        head: the head it belongs to.
        view: the view it came from, which is excused from predicting it; None if it came from no view of this batch.
    """

    values: Float[Tensor, "b k"] | Int[Tensor, " b"]
    head: int
    view: int | None


@dataclass(frozen=True)
class StepResult:
    """The loss of one step, and what it was made from; all stays on the device.

    Attributes:
        loss: with gradient.
        z: the student's embeddings, view by view, without gradient.
        targets: what was to be predicted.
    """

    loss: Float[Tensor, ""]
    z: Float[Tensor, "v b d"]
    targets: list[Target]
