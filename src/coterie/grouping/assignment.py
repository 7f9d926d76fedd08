"""How scores become targets.

Every assignment is one line, ``q = softmax(scores / temperature + bias)``; the kinds differ in the bias of each group.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from coterie.errors import BadConfig
from coterie.ops.loss import at_least_float32
from coterie.ops.sinkhorn import sinkhorn_bias


@runtime_checkable
class Assignment(Protocol):
    """What the objective needs of a kind of assignment; ``pools`` says that more rows change a row's answer."""

    @property
    def temperature(self) -> float:
        """What the scores are divided by."""

    @property
    def pools(self) -> bool:
        """Whether the rows of the memory are to be looked at beside the batch's own."""

    def bias(self, logits: Float[Tensor, "*a n k"]) -> Float[Tensor, "*a k"]:
        """What is added to the logits of each group."""


@dataclass(frozen=True)
class Sinkhorn:
    """Codes that use all groups alike: SwAV's equipartition (section 3.1, eq. 3 to 5).

    Attributes:
        temperature: epsilon, the weight of the entropy; the smaller, the harder the codes.
        iterations: rounds of Sinkhorn-Knopp; 3 in all the paper's runs.
    """

    temperature: float = 0.05
    iterations: int = 3
    pools: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise BadConfig(f"assignment.temperature is {self.temperature:g}: it must be above 0 (SwAV uses 0.05)")
        if self.iterations < 1:
            raise BadConfig(f"assignment.iterations is {self.iterations}: it must be at least 1 (SwAV uses 3)")

    def bias(self, logits: Float[Tensor, "*a n k"]) -> Float[Tensor, "*a k"]:
        """The bias that spreads the rows evenly over the groups."""
        return sinkhorn_bias(logits, self.iterations)


def assign(assignment: Assignment, scores: Float[Tensor, "*a n k"]) -> Float[Tensor, "*a n k"]:
    """Codes of N rows over K groups: ``softmax(scores / temperature + bias)``, without gradient, never below float32."""
    logits = at_least_float32(scores.detach()) / assignment.temperature
    return (logits + assignment.bias(logits).unsqueeze(-2)).softmax(dim=-1)
