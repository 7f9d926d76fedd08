"""The few records that pass between the layers.

Legend of shapes, here and everywhere: B images, V views, A target or grouped views, D width, K groups, N rows, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
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
    """Which views play which part: what the student sees, what decides the targets, what the groups look at.

    Attributes:
        student_views: encoded by the student, and predicting.
        target_views: encoded by the target network; they decide.
        grouped_views: of the student's; they move the groups and fill the memory.
        bn_only_views: encoded by the target network beside the target views, only for its batch statistics (SMoG).
        family: views of one family of augmentation, where two families swap their parts every batch; 0: they do not. View v
            of one family is view ``v + family`` of the other.
    """

    student_views: tuple[int, ...]
    target_views: tuple[int, ...]
    grouped_views: tuple[int, ...]
    bn_only_views: tuple[int, ...] = ()
    family: int = 0

    def at(self, progress: Progress) -> "Roles":
        """The roles at this step: at odd steps of an epoch two families change places (release of SMoG)."""
        if not self.family or progress.step_in_epoch % 2 == 0:
            return self

        def swapped(views: tuple[int, ...]) -> tuple[int, ...]:
            return tuple((view + self.family) % (2 * self.family) for view in views)

        return Roles(
            swapped(self.student_views),
            swapped(self.target_views),
            swapped(self.grouped_views),
            swapped(self.bn_only_views),
        )

    @property
    def used(self) -> tuple[int, ...]:
        """Every view that somebody looks at, in order."""
        return tuple(sorted({*self.student_views, *self.target_views, *self.grouped_views, *self.bn_only_views}))


@dataclass(frozen=True)
class Batch:
    """B images seen from several sides.

    Attributes:
        index: position of each image in its source.
        views: for each number of a view that this step uses, a tensor ``[B, C, H, W]``.
        bad: (position in the source, reason) of images that could not be decoded, those of this batch among them.
    """

    index: Int[Tensor, " b"]
    views: Mapping[int, Float[Tensor, "b c _ _"]]
    bad: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """What the predictions of one head should be, for every image of the batch.

    Attributes:
        values: a code (a distribution over the K groups), or the number of a group (-100: this image has none).
        head: the head it belongs to.
        view: the view it came from, which is excused from predicting it; None if it came from no view of this batch.
        exclude: the columns of a row's own image: its softmax is over its own group and all columns that are not excluded.
    """

    values: Float[Tensor, "b k"] | Int[Tensor, " b"]
    head: int
    view: int | None
    exclude: Bool[Tensor, "b k"] | None = None


@dataclass(frozen=True)
class StepResult:
    """The loss of one step, and what it was made from; all stays on the device.

    Attributes:
        loss: with gradient.
        z: the student's embeddings, view by view, without gradient.
        targets: what was to be predicted.
        index: the images of the batch.
        gradient_norm: of all weights together, before it was clipped; None before the backward pass.
    """

    loss: Float[Tensor, ""]
    z: Float[Tensor, "v b d"]
    targets: list[Target]
    index: Int[Tensor, " b"]
    gradient_norm: Float[Tensor, ""] | None = None
