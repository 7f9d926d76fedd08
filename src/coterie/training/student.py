"""All that the optimizer moves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coterie.config.schema import PretrainConfig
from coterie.data.loading.center_crop import Preprocessing
from coterie.grouping.chunks import chunked
from coterie.grouping.groups import KMeansGroups, LearnedGroups
from coterie.grouping.loss import scores
from coterie.models.encoder import Encoder


class Student(nn.Module):
    """The encoder and, unless the batch is its own groups, their centers."""

    def __init__(self, encoder: Encoder, groups: LearnedGroups | KMeansGroups | None = None) -> None:
        """Own both."""
        super().__init__()
        self.encoder = encoder
        self.groups = groups

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the views: h ``[V, B, F]``, unit z ``[V, B, D]``, unit p ``[V, B, D]``."""
        h, z, p = self.encoder(views)
        return h, z, p


def predict_groups(student: Student, temperature: float) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """From images to embedding ``[B, F]`` of the backbone, group ``[B]`` of the first head and its probability ``[B]``.

    The group is the one whose center is nearest to the projected image, its probability that of
    ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups.
    """

    def look(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = student.encoder.backbone(images)
        if student.groups is None:  # the batch was the groups: nothing lasts
            return features, torch.full((len(images),), -1), torch.zeros(len(images))
        logits = scores(student.encoder.project(features), student.groups.centers()[0]) / temperature
        probability, group = logits.softmax(dim=1).max(dim=1)
        return features, group, probability

    return look


@torch.inference_mode()
def assigned_groups(student: Student, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """The group ``[N]`` of the first head and its score ``[N]`` for features ``[N, F]`` that were made before, on the CPU.

    None where the batch was the groups. A bounded number of scores is held at a time.
    """
    if student.groups is None:
        return None
    centers, training = student.groups.centers()[0], student.training
    student.eval()
    found = [
        scores(student.encoder.project(part.to(centers.device)), centers).max(dim=1)
        for part in chunked(rows, max(len(centers), rows.shape[1]))
    ]
    student.train(training)
    return torch.cat([each.indices.cpu() for each in found]), torch.cat([each.values.cpu() for each in found])


def preprocessing_of(config: PretrainConfig) -> Preprocessing:
    """How whole images are brought to the trained network."""
    assert config.views.mean is not None
    assert config.views.std is not None
    return Preprocessing(config.views.center_crop_size, config.views.channels, config.views.mean, config.views.std)
