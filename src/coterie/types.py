"""The few records that pass between the layers.

Shape letters, here and everywhere: B images, V views, A target or grouped views, D embedding width, F feature width,
K groups, N rows, H heads, W processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]
"""How an image is resized."""
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Stretch:
    """How the schedules of a run whose length has changed go on from a step without a jump: along the rest of what was planned.

    Attributes:
        first: the first step of the new length.
        position: where it is on the schedules, in steps of the run as it was planned.
        planned: steps of the run as it was planned.
    """

    first: int
    position: float
    planned: int


@dataclass(frozen=True)
class Progress:
    """Position of one step within a run.

    Attributes:
        step: number of the step (batch), counted from 0 over the whole run.
        steps_per_epoch: steps in one epoch.
        total_steps: steps in the whole run.
        stretch: how schedules span a length that has changed; None: they span ``total_steps``.
    """

    step: int
    steps_per_epoch: int
    total_steps: int
    stretch: Stretch | None = None

    def on_schedule(self, ahead: int = 0) -> float:
        """Where the step that is ``ahead`` of this one is on the schedules: its number, unless they are stretched."""
        step = self.step + ahead
        if self.stretch is None:
            return step
        left = self.stretch.planned - self.stretch.position
        return self.stretch.position + (step - self.stretch.first) * left / (self.total_steps - self.stretch.first)

    @property
    def scheduled_steps(self) -> int:
        """The steps that the schedules span."""
        return self.total_steps if self.stretch is None else self.stretch.planned

    @property
    def epoch(self) -> int:
        """Epoch of this step, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Number of this step within its epoch, counted from 0."""
        return self.step % self.steps_per_epoch


@dataclass(frozen=True)
class Roles:
    """Which views the student encodes, which decide the targets and which update the groups.

    Attributes:
        student_views: views that the student encodes and predicts from.
        target_views: views that the target network encodes; the targets are computed from them.
        grouped_views: views of the student that update the groups and fill the memory.
        bn_only_views: views that the target network encodes together with the target views only for the sake of its batch
            statistics (SMoG).
        family: number of views per augmentation family where two families swap roles every batch: view v of one family
            corresponds to view ``v + family`` of the other. 0: the roles never change.
    """

    student_views: tuple[int, ...]
    target_views: tuple[int, ...]
    grouped_views: tuple[int, ...]
    bn_only_views: tuple[int, ...] = ()
    family: int = 0

    def at(self, progress: Progress) -> "Roles":
        """Return the roles of one step: at odd steps of an epoch the two families are swapped (SMoG's released code).

        Args:
            progress: position of the step.

        Returns:
            The roles with the view numbers of this step.
        """
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
        """All views with at least one role, in ascending order."""
        return tuple(sorted({*self.student_views, *self.target_views, *self.grouped_views, *self.bn_only_views}))


@dataclass(frozen=True)
class Batch:
    """The views of B images.

    Attributes:
        index: position of each image in its source.
        views: one tensor ``[B, C, H, W]`` for each view number that this step uses.
        bad: (position in the source, reason) of images that could not be decoded, including those of this batch.
    """

    index: Int[Tensor, " b"]
    views: Mapping[int, Float[Tensor, "b c _ _"]]
    bad: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Target:
    """What the predictions of one head should be for every image of the batch.

    Attributes:
        values: codes (a distribution over the K groups for each image) or group numbers (-100: no target for this image).
        head: number of the head whose groups are meant.
        view: view that the target was computed from, which does not predict it; None if it came from no view of this batch.
        exclude: columns to leave out of each row's softmax; the row's own group always stays in (SimCLR, where the columns of
            the row's own image are excluded).
    """

    values: Float[Tensor, "b k"] | Int[Tensor, " b"]
    head: int
    view: int | None
    exclude: Bool[Tensor, "b k"] | None = None


@dataclass(frozen=True)
class StepResult:
    """Loss of one step and the tensors that it was computed from; everything stays on the device.

    Attributes:
        loss: the loss, with gradient.
        z: unit embeddings of the student, view by view, without gradient.
        targets: targets that the views had to predict.
        index: position of each image in its source.
        gradient_norm: L2 norm of the gradient of all weights together before clipping; None before the backward pass.
        regularization: the share of the loss that is a regularizer's, weighted, without gradient; None: there is none.
        gradient_squares: squared norms ``[2]`` of the gradients of predictions and regularizer at z and p, which the backward
            pass fills in; None: there is no regularizer, or nobody measures them.
    """

    loss: Float[Tensor, ""]
    z: Float[Tensor, "v b d"]
    targets: list[Target]
    index: Int[Tensor, " b"]
    gradient_norm: Float[Tensor, ""] | None = None
    regularization: Float[Tensor, ""] | None = None
    gradient_squares: Float[Tensor, "2"] | None = None
