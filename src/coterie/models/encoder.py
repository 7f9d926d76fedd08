"""From views to embeddings, and what is normalized together on the way."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coterie.errors import BadConfig
from coterie.models.joint_batch_norm import can_join, joint_features

BatchNormScope = Literal["view", "resolution", "joint"]


class Encoder(nn.Module):
    """Backbone, projector and, if the method has one, predictor.

    What is normalized together is part of the method, hence ``batch_norm_scope``:

    * ``resolution``: the backbone runs once per resolution over all views of that size, the heads once over all views
      (SwAV, https://arxiv.org/abs/2006.09882, as released);
    * ``view``: each view goes through backbone and heads by itself (ReSA, as released);
    * ``joint``: in a ResNet a batch norm sees all views of all resolutions, but for those in the down-sample branches
      (:func:`~coterie.models.joint_batch_norm.joint_features`), and so do the heads (SMoG, as released).

    In training a batch may go through in several ``micro_batches``, of which batch norms see one at a time. All of its
    embeddings come out together, so that its codes and its loss are those of the whole batch; what lies between is not
    remembered, but computed again, part by part, on the way back (Gao et al. 2021, arXiv 2101.06983). The backward pass
    is to run within :func:`~coterie.models.activation_checkpointing.statistics_kept`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None = None,
        *,
        batch_norm_scope: BatchNormScope = "resolution",
        micro_batches: int = 1,
    ) -> None:
        """Own the three networks; :class:`BadConfig` if this backbone does not have that scope."""
        super().__init__()
        check_batch_norm_scope(backbone, batch_norm_scope)
        self.backbone = backbone
        self.projector = projector
        self.predictor = predictor
        self.batch_norm_scope = batch_norm_scope
        self.micro_batches = micro_batches
        self._compiled: dict[nn.Module, Callable[..., Any]] | None = None

    def compile_passes(self, wanted: bool = True) -> None:
        """Have the backbone's training passes compiled from now on, each size of view once; or no longer.

        Nothing else changes: neither the names nor the values of what is saved, nor evaluation. See
        :func:`~coterie.models.compile.compile_passes`, which falls back where the compiler fails.
        """
        self._compiled = {} if wanted else None

    def _faster(self, network: nn.Module) -> Callable[..., Any]:
        """The network, or what was compiled of it: for a student's passes with gradient and a teacher's without."""
        learns = next(self.parameters()).requires_grad
        if self._compiled is None or not self.training or learns != torch.is_grad_enabled():
            return network
        if network not in self._compiled:
            self._compiled[network] = torch.compile(network, dynamic=False)
        return self._compiled[network]

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
        if self.micro_batches == 1 or not self.training:
            return self._encode(views)
        parts = zip(*(view.tensor_split(self.micro_batches) for view in views), strict=True)
        h, z, p = zip(*(checkpoint(self._encode, part, use_reentrant=False) for part in parts), strict=True)
        return torch.cat(h, dim=1), torch.cat(z, dim=1), torch.cat(p, dim=1)

    def _encode(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = self._features_of_views(views)
        projected = self._through(self.projector, h)
        z = _unit_rows(projected)
        if self.predictor is None:
            return h, z, z
        return h, z, _unit_rows(self._through(self.predictor, projected))

    def project(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """z, the embeddings as unit rows, of features that were made before."""
        return _unit_rows(self.projector(features))

    def _features_of_views(self, views: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "v b f"]:
        if self.batch_norm_scope == "view":
            return torch.stack([self._faster(self.backbone)(_channels_last(view)) for view in views])
        positions: dict[torch.Size, list[int]] = {}
        for position, view in enumerate(views):
            positions.setdefault(view.shape[-2:], []).append(position)
        batches = [_channels_last(torch.cat([views[each] for each in together])) for together in positions.values()]
        if self.batch_norm_scope == "joint":
            rows = joint_features(self.backbone, batches, self._faster)
        else:
            rows = [self._faster(self.backbone)(batch) for batch in batches]
        features: dict[int, Tensor] = {}
        for together, same_size in zip(positions.values(), rows, strict=True):
            features.update(zip(together, same_size.chunk(len(together)), strict=True))
        return torch.stack([features[position] for position in range(len(views))])

    def _through(self, head: nn.Module, rows: Float[Tensor, "v b f"]) -> Float[Tensor, "v b d"]:
        if self.batch_norm_scope == "view":
            return torch.stack([head(one) for one in rows])
        outputs: Tensor = head(rows.flatten(0, 1))
        return outputs.view(*rows.shape[:2], -1)


def check_batch_norm_scope(backbone: nn.Module, scope: str) -> None:
    """Refuse a scope that is unknown, or that this backbone does not have.

    Raises:
        BadConfig: in one line that names the setting and the mend.
    """
    if scope not in get_args(BatchNormScope):
        raise BadConfig(f"batch_norm_scope is {scope!r}: write {', '.join(get_args(BatchNormScope))}")
    if scope == "joint" and not can_join(backbone):
        raise BadConfig(
            f"batch_norm_scope is joint, which is for timm's ResNets and not for a {type(backbone).__name__}: "
            "set batch_norm_scope to resolution"
        )


def target_copy(encoder: Encoder) -> Encoder:
    """The network of a momentum teacher: backbone and projector copied, without predictor and without gradients.

    Its parameters have the names that they have in ``encoder``. Drop path and dropout are off, as only the student has
    them in SMoG (https://arxiv.org/abs/2207.06167, as released).
    """
    target = Encoder(
        copy.deepcopy(encoder.backbone),
        copy.deepcopy(encoder.projector),
        batch_norm_scope=encoder.batch_norm_scope,
        micro_batches=encoder.micro_batches,
    )
    for module in target.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return target.train(encoder.training).requires_grad_(False)


def _channels_last(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """As convolutions want them, whatever made them; so what is compiled sees one layout."""
    return images.contiguous(memory_format=torch.channels_last)


def _unit_rows(rows: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)
