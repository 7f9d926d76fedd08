"""From views to embeddings: the backbone once per resolution, the head once over all views."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Encoder(nn.Module):
    """Backbone, projector and, if the method has one, predictor.

    What is normalised together is part of the method: batch norm in the backbone sees all views of one resolution,
    batch norm in the heads sees all views (SwAV, https://arxiv.org/abs/2006.09882, as released).
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        """Own the three networks."""
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.predictor = predictor

    def forward(
        self, views: Sequence[Float[Tensor, "b c _ _"]]
    ) -> tuple[Float[Tensor, "v b f"], Float[Tensor, "v b d"], Float[Tensor, "v b d"]]:
        """Encode the V views of B images.

        Views of one resolution need not be adjacent; the results are in the order of the views.

        Returns:
            h, the features; z, the embeddings as unit rows; p, the predictions as unit rows, which are z where there is
            no predictor. The predictor reads the projector's rows before they are divided by their norm. z and p are
            never below float32.
        """
        h = self._features_of_views(views)
        projected = self.projector(h.flatten(0, 1))
        z = _unit_rows(projected).view(*h.shape[:2], -1)
        if self.predictor is None:
            return h, z, z
        return h, z, _unit_rows(self.predictor(projected)).view(*h.shape[:2], -1)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Features of images of one size, as they are used after the training."""
        features: Tensor = self.backbone(images)
        return features

    def _features_of_views(self, views: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "v b f"]:
        positions: dict[torch.Size, list[int]] = {}
        for position, view in enumerate(views):
            positions.setdefault(view.shape[-2:], []).append(position)
        features: dict[int, Tensor] = {}
        for together in positions.values():
            rows = self.backbone(torch.cat([views[position] for position in together]))
            features.update(zip(together, rows.chunk(len(together)), strict=True))
        return torch.stack([features[position] for position in range(len(views))])


def _unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)
