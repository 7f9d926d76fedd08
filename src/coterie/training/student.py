"""The student: the module that is trained, and how it assigns images to groups."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coterie.config.schema import PretrainConfig
from coterie.data.loading.center_crop import Preprocessing
from coterie.grouping.chunks import chunked
from coterie.grouping.groups import Groups
from coterie.grouping.loss import cosine_scores
from coterie.models.encoder import Encoder

GroupPrediction = Callable[[Float[Tensor, "b f"]], tuple[Tensor, Tensor]]
"""Maps embeddings of the backbone to groups ``[B]`` and their probabilities ``[B]``."""


class Student(nn.Module):
    """Encoder and groups: all parameters that the optimizer updates.

    Attributes:
        encoder: backbone, projector and predictor.
        groups: the centers of each head; None if the images of a batch are its groups.
    """

    def __init__(self, encoder: Encoder, groups: Groups | None = None) -> None:
        """Combine both in one module."""
        super().__init__()
        self.encoder = encoder
        self.groups = groups

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the views ``[B, C, H, W]``: h ``[V, B, F]``, unit z ``[V, B, D]``, unit p ``[V, B, D]``."""
        h, z, p = self.encoder(views)
        return h, z, p


def nearest_groups(student: Student, temperature: float) -> GroupPrediction:
    """Create a function from embeddings of the backbone to groups and probabilities.

    Args:
        student: the trained student.
        temperature: tau of the softmax.

    Returns:
        A function that returns the group ``[B]`` of the first head whose center is nearest to the projected image, and its
        probability ``[B]`` in ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups.
    """
    groups = student.groups
    if groups is None:
        return no_groups

    def predict(features: Tensor) -> tuple[Tensor, Tensor]:
        logits = cosine_scores(student.encoder.project(features), groups.centers()[0]) / temperature
        probability, group = logits.softmax(dim=1).max(dim=1)
        return group, probability

    return predict


def no_groups(features: Float[Tensor, "b f"]) -> tuple[Tensor, Tensor]:
    """The same of a network without groups: all images get group -1 and probability 0.

    Args:
        features: of the images.
    """
    return torch.full((len(features),), -1), torch.zeros(len(features))


@torch.inference_mode()
def assigned_groups(
    student: Student, rows: Float[Tensor, "n f"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]] | None:
    """Assign embeddings of the backbone to groups of the first head, with a bounded number of scores in memory.

    Args:
        student: the trained student.
        rows: embeddings that were computed before.

    Returns:
        The group of each row and its score, on the CPU; None where the method has no lasting groups.
    """
    if student.groups is None:
        return None
    centers, training = student.groups.centers()[0], student.training
    student.eval()
    best = [
        cosine_scores(student.encoder.project(part.to(centers.device)), centers).max(dim=1)
        for part in chunked(rows, max(len(centers), rows.shape[1]))
    ]
    student.train(training)
    return torch.cat([each.indices.cpu() for each in best]), torch.cat([each.values.cpu() for each in best])


def preprocessing_of(config: PretrainConfig) -> Preprocessing:
    """The preprocessing of whole images for the trained backbone."""
    views = config.views
    assert views.mean is not None
    assert views.std is not None
    size, options = views.center_crop_size, {"interpolation": views.interpolation, "value_range": views.range}
    return Preprocessing(size, views.channels, views.mean, views.std, **options)  # type: ignore[arg-type]
