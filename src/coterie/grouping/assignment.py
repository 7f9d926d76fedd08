"""How scores become targets.

Every assignment is one line, ``q = softmax(scores / temperature + bias)``, hard or soft; the kinds differ in the bias of each
group. Where N rows have to be labeled at once, they stream through in chunks and only the K biases are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coterie.distributed.collectives import all_reduce_sum
from coterie.distributed.processes import world_size
from coterie.errors import BadConfig
from coterie.grouping.chunks import chunk_slices
from coterie.grouping.loss import at_least_float32, scores
from coterie.grouping.sinkhorn import Chunks, sinkhorn_bias
from coterie.optim.schedule import Constant, Schedule, extremes
from coterie.types import Progress

_START = Progress(0, 1, 1)


@runtime_checkable
class Assignment(Protocol):
    """What the objective needs of a kind of assignment.

    ``uses_memory`` says that more rows change a row's answer, ``hard`` that a row is given to one group.
    """

    @property
    def uses_memory(self) -> bool:
        """Whether the rows of the memory are to be looked at beside the batch's own."""

    @property
    def hard(self) -> bool:
        """Whether a target is the number of a group, not a distribution."""

    def temperature_at(self, progress: Progress) -> float:
        """What the scores are divided by."""

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """What is added to the logits of each group, ``[*A, K]`` or one number for all."""

    def update_statistics(self, seen: Float[Tensor, "*a n k"], head: int) -> None:
        """The scores of this step, after they were used."""


@dataclass(frozen=True)
class Sinkhorn:
    """Codes that use all groups alike: SwAV's equipartition (section 3.1, eq. 3 to 5); hard, SeLa's labels.

    Attributes:
        temperature: epsilon, the weight of the entropy; the smaller, the harder the codes.
        iterations: most rounds of Sinkhorn-Knopp; 3 in all of SwAV's runs.
        hard: give each row to its best group (SwAV, appendix C.3; SeLa).
        normalized: start from probabilities: each row is divided by its sum before the first round (MSN).
        tolerance: stop when no bias moved by more than this in a round; 0: never. Labels of a whole data set need it:
            after 3 rounds a third of SeLa's rows are labeled wrongly.
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
            raise BadConfig(f"assignment.tolerance is {self.tolerance:g}: it cannot be negative (0: all iterations)")

    def temperature_at(self, progress: Progress) -> float:
        """Epsilon."""
        return self.temperature

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """The bias that spreads the rows evenly over the groups."""
        return sinkhorn_bias(logits, self.iterations, normalized=self.normalized, tolerance=self.tolerance)

    def update_statistics(self, seen: Float[Tensor, "*a n k"], head: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Nearest:
    """The group with the nearest center (DeepCluster-v2, SMoG): no balance, no temperature."""

    hard: ClassVar[bool] = True
    uses_memory: ClassVar[bool] = False

    def temperature_at(self, progress: Progress) -> float:
        """None is needed."""
        return 1.0

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """No group is preferred."""
        return 0.0

    def update_statistics(self, seen: Float[Tensor, "*a n k"], head: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Softmax:
    """Sharpened scores, unbalanced (MSN: 0.1 x 0.25); something else has to keep the groups apart.

    Attributes:
        temperature: of the targets; below that of the prediction it sharpens.
    """

    temperature: float = 0.025
    hard: ClassVar[bool] = False
    uses_memory: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_temperature(self.temperature, "MSN uses 0.025")

    def temperature_at(self, progress: Progress) -> float:
        """The temperature of the targets."""
        return self.temperature

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """No group is preferred."""
        return 0.0

    def update_statistics(self, seen: Float[Tensor, "*a n k"], head: int) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class CenteredConfig:
    """Scores less their running mean, sharpened (DINO).

    Attributes:
        temperature: of the targets, over the run; DINO's is 0.04, on ViTs 0.04 -> 0.07.
        momentum: of the running mean.
    """

    temperature: Schedule = field(default_factory=lambda: Constant(0.04))
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check_temperature(extremes(self.temperature)[0], "DINO uses 0.04")
        if not 0 <= self.momentum <= 1:
            raise BadConfig(f"assignment.momentum is {self.momentum:g}: give a number from 0 to 1 (DINO uses 0.9)")


class Centered(nn.Module):
    """``softmax((scores - center) / temperature)``; the center is a moving average of the mean scores (DINO, eq. 4).

    Caron et al. 2021, arXiv 2104.14294. The center is used first and moved afterwards, over all target views together.
    """

    hard = False
    uses_memory = False

    def __init__(self, counts: Sequence[int], temperature: Schedule, momentum: float = 0.9) -> None:
        """A center of zeros for each head."""
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        for head, count in enumerate(counts):
            self.register_buffer(f"center{head}", torch.zeros(count))

    def temperature_at(self, progress: Progress) -> float:
        """The temperature of the targets at this step."""
        return self.temperature.at(progress)

    def group_bias(self, logits: Float[Tensor, "*a n k"] | Chunks, temperature: float, head: int) -> Tensor | float:
        """What often scores high is held down."""
        center: Tensor = self.get_buffer(f"center{head}")
        return -center / temperature

    def update_statistics(self, seen: Float[Tensor, "*a n k"], head: int) -> None:
        """Move the center; one collective."""
        center = self.get_buffer(f"center{head}")
        mean = all_reduce_sum(seen.flatten(0, -2).mean(dim=0)) / world_size()
        center.lerp_(mean.to(center.dtype), 1 - self.momentum)


AssignmentConfig = Sinkhorn | Nearest | Softmax | CenteredConfig


def build_assignment(config: AssignmentConfig, counts: Sequence[int]) -> Assignment:
    """The part itself; most kinds are their own settings."""
    if isinstance(config, CenteredConfig):
        return Centered(counts, config.temperature, config.momentum)
    return config


@torch.no_grad()
def assign(
    assignment: Assignment,
    seen: Float[Tensor, "*a n k"],
    progress: Progress = _START,
    head: int = 0,
    *,
    last: int | None = None,
) -> Float[Tensor, "*a m k"] | Int[Tensor, "*a m"]:
    """Targets of N rows over K groups: ``softmax(scores / temperature + bias)``, or its argmax; never below float32.

    All rows are looked at; where only the ``last`` so many are asked for, only they are answered.
    """
    temperature = assignment.temperature_at(progress)
    logits = at_least_float32(seen) / temperature
    bias = assignment.group_bias(logits, temperature, head)
    asked = logits[..., -(last or seen.shape[-2]) :, :]
    if isinstance(bias, Tensor):  # one number for all groups changes nothing
        asked += bias.unsqueeze(-2)
    return asked.argmax(dim=-1) if assignment.hard else asked.softmax(dim=-1)


@torch.no_grad()
def label_rows(
    assignment: Assignment,
    rows: Float[Tensor, "n d"],
    centers: Float[Tensor, "k d"],
    progress: Progress = _START,
    head: int = 0,
) -> Int[Tensor, " n"]:
    """The group of each of N rows by the same rule, hard; the N x K scores are never held."""
    temperature = assignment.temperature_at(progress)

    def chunks() -> Iterator[Tensor]:
        for part in chunk_slices(len(rows), len(centers), rows.device):
            yield scores(rows[part], centers) / temperature

    bias = assignment.group_bias(chunks, temperature, head)
    labels, total = [], torch.zeros_like(centers[:, 0])
    for chunk in chunks():
        labels.append((chunk + bias).argmax(dim=1))
        total = total + chunk.sum(dim=0)
    assignment.update_statistics(total[None] * (temperature / len(rows)), head)
    return torch.cat(labels)


def _check_temperature(temperature: float, usual: str) -> None:
    if temperature <= 0:
        raise BadConfig(f"assignment.temperature is {temperature:g}: it must be above 0 ({usual})")
