"""Turn scores into targets: the kinds of assignment, and the two functions that apply them.

Every kind has the form ``q = softmax(scores / temperature + bias)``, soft or hard; the kinds differ only in the bias of each
group. To label N rows at once (a whole memory), the rows stream through in chunks and only the K biases are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import check_interrupted_together, world_size
from coterie.errors import BadConfig
from coterie.grouping.chunks import chunk_slices
from coterie.grouping.kmeans import Tick
from coterie.grouping.loss import at_least_float32, cosine_scores
from coterie.grouping.sinkhorn import Chunks, sinkhorn_bias
from coterie.optim.schedule import Constant, Schedule, extremes
from coterie.types import Progress

_START = Progress(0, 1, 1)


@runtime_checkable
class Assignment(Protocol):
    """What the objective needs from a kind of assignment.

    The targets of N rows over K groups are ``softmax(scores / temperature + bias)``, or the argmax of that where ``hard`` is
    true; see :func:`assign`.
    """

    @property
    def uses_memory(self) -> bool:
        """Whether a row's target depends on the other rows, so that the rows of the memory should be assigned too."""

    @property
    def hard(self) -> bool:
        """Whether a target is the number of a group instead of a distribution over the groups."""

    def temperature_at(self, progress: Progress) -> float:
        """Return the number that the scores are divided by.

        Args:
            progress: position of the step.

        Returns:
            A positive number.
        """

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """Return what is added to the logits of each group.

        Args:
            logits: scores divided by the temperature, float32 or wider: one tensor, or a function that yields the same logits
                in chunks of rows each time it is called. Leading dimensions are independent of each other.
            temperature: the number that the scores were divided by.
            head: number of the head.

        Returns:
            One bias per group, ``[K]`` or ``[*A, K]``, or one number for all groups, which changes nothing.
        """

    def update_statistics(self, scores: Float[Tensor, "*a n k"], head: int) -> None:
        """Update running statistics with the scores of this step, after they were used.

        Args:
            scores: cosines between rows and centers, not divided by the temperature.
            head: number of the head.
        """


@final
@dataclass(frozen=True)
class Sinkhorn:
    """Codes that use all groups equally: the equipartition of SwAV and SeLa.

    Caron et al. 2020 (SwAV, arXiv 2006.09882), section 3.1, eq. 3 to 5; hard codes: appendix C.3, and Asano et al. 2020 (SeLa,
    arXiv 1911.05371). The iteration itself is :func:`~coterie.grouping.sinkhorn.sinkhorn_bias`.

    Attributes:
        temperature: epsilon, the weight of the entropy in eq. 3; the smaller, the harder the codes. SwAV: 0.05.
        iterations: maximum number of Sinkhorn-Knopp iterations; 3 in all of SwAV's runs.
        hard: assign each row to its best group (SeLa) instead of returning soft codes.
        normalized: start from probabilities: divide each row by its sum before the first iteration (MSN).
        tolerance: stop once no bias changed by more than this in an iteration; 0: never stop early. Labels of a whole data set
            need it: after 3 iterations a third of SeLa's rows are labeled wrongly.

    Raises:
        BadConfig: the temperature is not positive, there is no iteration, or the tolerance is negative.
    """

    temperature: float = 0.05
    iterations: int = 3
    hard: bool = False
    normalized: bool = False
    tolerance: float = 0.0
    uses_memory: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "SwAV uses 0.05")
        if self.iterations < 1:
            raise BadConfig(f"assignment.iterations is {self.iterations}: it must be at least 1 (SwAV uses 3)")
        if self.tolerance < 0:
            raise BadConfig(
                f"assignment.tolerance is {self.tolerance:g}: it cannot be negative (0 runs all iterations)"
            )

    def temperature_at(self, progress: Progress) -> float:
        """Return epsilon, the same at every step (``progress`` is ignored)."""
        return self.temperature

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """Return the bias ``[*A, K]`` that spreads the rows of all processes evenly over the groups.

        Arguments as in :meth:`Assignment.group_bias`; one collective per iteration.
        """
        return sinkhorn_bias(logits, self.iterations, normalized=self.normalized, tolerance=self.tolerance)

    def update_statistics(self, scores: Float[Tensor, "*a n k"], head: int) -> None:
        """Do nothing: this kind keeps no statistics. Arguments as in :meth:`Assignment.update_statistics`."""


@final
@dataclass(frozen=True)
class Nearest:
    """The group with the nearest center, as a hard target: no balancing and no temperature.

    DeepCluster-v2 (Caron et al. 2020, arXiv 2006.09882, appendix D.2) and SMoG (Pang et al. 2022, arXiv 2207.06167).
    """

    hard: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = False

    def temperature_at(self, progress: Progress) -> float:
        """Return 1: an argmax does not depend on the temperature (``progress`` is ignored)."""
        return 1.0

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """Return 0: no group is preferred. Arguments as in :meth:`Assignment.group_bias`."""
        return 0.0

    def update_statistics(self, scores: Float[Tensor, "*a n k"], head: int) -> None:
        """Do nothing: this kind keeps no statistics. Arguments as in :meth:`Assignment.update_statistics`."""


@final
@dataclass(frozen=True)
class Softmax:
    """Sharpened scores without balancing; another term has to prevent a collapse into few groups (``mean_entropy`` in MSN).

    The targets of MSN: Assran et al. 2022, arXiv 2204.07141.

    Attributes:
        temperature: temperature of the targets; below that of the prediction (0.1) it sharpens them. MSN: 0.1 x 0.25 = 0.025.

    Raises:
        BadConfig: the temperature is not positive.
    """

    temperature: float = 0.025
    hard: ClassVar[bool] = False
    uses_memory: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "MSN uses 0.025")

    def temperature_at(self, progress: Progress) -> float:
        """Return the temperature of the targets, the same at every step (``progress`` is ignored)."""
        return self.temperature

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """Return 0: no group is preferred. Arguments as in :meth:`Assignment.group_bias`."""
        return 0.0

    def update_statistics(self, scores: Float[Tensor, "*a n k"], head: int) -> None:
        """Do nothing: this kind keeps no statistics. Arguments as in :meth:`Assignment.update_statistics`."""


@final
@dataclass(frozen=True)
class CenteredConfig:
    """Settings of :class:`Centered`: scores minus their running mean, sharpened (DINO).

    Attributes:
        temperature: schedule of the targets' temperature; DINO: 0.04, for ViTs 0.04 -> 0.07.
        momentum: share of the running mean that is kept at each step; DINO: 0.9.

    Raises:
        BadConfig: the temperature is not positive throughout, or the momentum is not in [0, 1].
    """

    temperature: Schedule = field(default_factory=lambda: Constant(0.04))
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_temperature(extremes(self.temperature)[0], "DINO uses 0.04")
        if not 0 <= self.momentum <= 1:
            raise BadConfig(f"assignment.momentum is {self.momentum:g}: give a number from 0 to 1 (DINO uses 0.9)")


@final
class Centered(nn.Module):
    """Targets ``softmax((scores - center) / temperature)``, where the center is a moving average of the mean scores.

    Caron et al. 2021 (DINO, arXiv 2104.14294), eq. 4. The center is used first and updated afterwards, with all target views
    together.
    """

    hard = False
    uses_memory = False

    def __init__(self, counts: Sequence[int], temperature: Schedule, momentum: float = 0.9) -> None:
        """Start with a center of zeros for each head.

        Args:
            counts: number of groups K of each head.
            temperature: schedule of the targets' temperature.
            momentum: share of the center that is kept at each step.
        """
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        for head, count in enumerate(counts):
            self.register_buffer(f"center{head}", torch.zeros(count))

    def temperature_at(self, progress: Progress) -> float:
        """Return the temperature of the targets at this step.

        Args:
            progress: position of the step.
        """
        return self.temperature.at(progress)

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """Return ``-center / temperature`` ``[K]``, which lowers the logits of groups with high average scores.

        Arguments as in :meth:`Assignment.group_bias`; ``logits`` is not used.
        """
        center: Tensor = self.get_buffer(f"center{head}")
        return -center / temperature

    def update_statistics(self, scores: Float[Tensor, "*a n k"], head: int) -> None:
        """Move the center towards the mean of these scores over all rows of all processes (eq. 4); one collective.

        Args:
            scores: cosines between rows and centers, not divided by the temperature.
            head: number of the head.
        """
        center = self.get_buffer(f"center{head}")
        mean = all_reduce_sum(scores.flatten(0, -2).mean(dim=0)) / world_size()
        center.lerp_(mean.to(center.dtype), 1 - self.momentum)


AssignmentConfig = Sinkhorn | Nearest | Softmax | CenteredConfig
"""Settings of all kinds of assignment; a kind without state is its own settings."""


def build_assignment(config: AssignmentConfig, counts: Sequence[int]) -> Assignment:
    """Build an assignment from its settings.

    Args:
        config: settings of one kind.
        counts: number of groups K of each head.

    Returns:
        The assignment, on torch's default device; ``config`` itself for a kind without state.
    """
    if isinstance(config, CenteredConfig):
        return Centered(counts, config.temperature, config.momentum)
    return config


@torch.no_grad()
def assign(
    assignment: Assignment,
    scores: Float[Tensor, "*a n k"],
    progress: Progress = _START,
    head: int = 0,
    *,
    last: int | None = None,
) -> Float[Tensor, "*a m k"] | Int[Tensor, "*a m"]:
    """Compute the targets of rows from their scores: ``softmax(scores / temperature + bias)``, or its argmax.

    Args:
        assignment: the kind of assignment, which gives temperature and bias.
        scores: cosines between N rows and K centers; leading dimensions (views) are assigned independently of each other.
        progress: position of the step, for kinds whose temperature has a schedule.
        head: number of the head, for kinds that keep statistics of each head.
        last: return the targets of only the last M rows; the bias is still computed from all rows. None: of all rows (M = N).

    Returns:
        Codes ``[*A, M, K]`` in float32 or wider, or, for a hard assignment, group numbers ``[*A, M]``. Without gradient.
    """
    temperature = assignment.temperature_at(progress)
    logits = at_least_float32(scores) / temperature
    bias = assignment.group_bias(logits, temperature, head)
    returned = logits[..., -(last or scores.shape[-2]) :, :]
    if isinstance(bias, Tensor):  # one number for all groups changes nothing
        returned += bias.unsqueeze(-2)
    return returned.argmax(dim=-1) if assignment.hard else returned.softmax(dim=-1)


@torch.no_grad()
def label_rows(
    assignment: Assignment,
    rows: Float[Tensor, "n d"],
    centers: Float[Tensor, "k d"],
    progress: Progress = _START,
    head: int = 0,
    tick: Tick = lambda: None,
) -> Int[Tensor, " n"]:
    """Label many rows with their groups: the argmax of :func:`assign`, computed in chunks, then the statistics' update.

    The N x K scores never exist at once.

    Args:
        assignment: the kind of assignment, which gives temperature and bias.
        rows: unit embeddings.
        centers: unit centers of one head.
        progress: position of the step, for kinds whose temperature has a schedule.
        head: number of the head.
        tick: called after each pass over the rows, :func:`label_passes` times at most, to show progress.

    Returns:
        The number of a group for each row.

    Raises:
        Interrupted: a signal stops the run; in all processes before the same pass over the rows.
    """
    temperature = assignment.temperature_at(progress)

    def chunks() -> Iterator[Tensor]:
        check_interrupted_together()
        for part in chunk_slices(len(rows), len(centers), rows.device):
            yield cosine_scores(rows[part], centers) / temperature
        tick()

    bias = assignment.group_bias(chunks, temperature, head)
    labels, total = [], torch.zeros_like(centers[:, 0])
    for chunk in chunks():
        labels.append((chunk + bias).argmax(dim=1))
        total = total + chunk.sum(dim=0)
    assignment.update_statistics(total[None] * (temperature / len(rows)), head)
    return torch.cat(labels)


def label_passes(assignment: Assignment) -> int:
    """How many passes over the rows :func:`label_rows` makes at most: the iterations of Sinkhorn, and the last one."""
    return 1 + (assignment.iterations if isinstance(assignment, Sinkhorn) else 0)


def _check_temperature(temperature: float, published: str) -> None:
    if temperature <= 0:
        raise BadConfig(f"assignment.temperature is {temperature:g}: it must be above 0 ({published})")
