"""The last layer of a classifier: from features to one logit per class."""

from typing import final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.evaluation.neighbors import vote

SMOOTHING = 0.1
"""Votes that each class has before anyone votes: without them a class that no neighbor has would have probability 0."""


@final
class KnnHead(nn.Module):
    """The weighted vote of the nearest training images, as of :func:`coterie.evaluation.probes.knn.knn`.

    Attributes:
        voters: features of the training images, of unit norm.
        labels: the class of each; or, of images with several labels, a 1 for each class that it has.
        classes: number of classes.
        k: number of neighbors that vote.
        vote_temperature: a neighbor votes with ``exp(cosine / vote_temperature)``.
        bias: what is added to the logit of each class; None: nothing.
    """

    voters: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"] | UInt8[Tensor, "n c"]
    bias: Float[Tensor, " c"] | None

    def __init__(
        self,
        voters: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | UInt8[Tensor, "n c"],
        classes: int,
        k: int = 20,
        vote_temperature: float = 0.07,
        bias: Float[Tensor, " c"] | None = None,
    ) -> None:
        """Keep the voters as buffers; their features are scaled to unit norm."""
        super().__init__()
        self.register_buffer("bias", bias)
        self.register_buffer("voters", F.normalize(voters.float(), dim=1))
        self.register_buffer("labels", labels)
        self.classes, self.k, self.vote_temperature = classes, k, vote_temperature

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Turn features into logits: of one label, whose softmax is the share of the votes; of several, whose sigmoid is."""
        similarities = F.normalize(features.float(), dim=1) @ self.voters.T
        nearest, positions = similarities.topk(min(self.k, len(self.voters)), dim=1)
        labels = self.labels[positions]
        if self.labels.ndim == 1:
            logits = (vote(nearest, labels, self.classes, self.vote_temperature) + SMOOTHING).log()
            return logits if self.bias is None else logits + self.bias
        weights = ((nearest - nearest[:, :1]) / self.vote_temperature).exp()
        votes = (weights[:, :, None] * labels).sum(dim=1)
        against = weights.sum(dim=1, keepdim=True) - votes
        return (votes + SMOOTHING).log() - (against + SMOOTHING).log()


Head = nn.Linear | KnnHead
"""Features ``[B, F]`` to logits ``[B, C]``."""


def linear_head(weight: Float[Tensor, "c d"], bias: Float[Tensor, " c"]) -> nn.Linear:
    """A linear layer with these values, in float32 and without gradients; no random number is drawn.

    Args:
        weight: of each class and feature.
        bias: of each class.
    """
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = (nn.Parameter(each.detach().float().contiguous()) for each in (weight, bias))
    return layer.requires_grad_(False)


def probabilities(
    logits: Float[Tensor, "b c"], temperature: float, *, multi_label: bool = False
) -> Float[Tensor, "b c"]:
    """Turn logits into probabilities, in float32 or wider.

    Args:
        logits: of a head.
        temperature: they are divided by it (Guo et al. 2017, section 4.2).
        multi_label: whether each class has a probability of its own, by a sigmoid; otherwise they sum to 1.
    """
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return scaled.sigmoid() if multi_label else scaled.softmax(dim=1)
