"""The encoder: from views to embeddings, and which views each batch norm sees together."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, final, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coterie.errors import BadConfig
from coterie.models.joint_batch_norm import can_join, joint_features
from coterie.models.own_backbone import users_module

BatchNormScope = Literal["view", "resolution", "joint"]
"""Which views a batch norm sees together; see :class:`Encoder`."""


@final
class Encoder(nn.Module):
    """Backbone, projector and, if the method has one, predictor.

    Which views are normalized together is part of the method, hence ``batch_norm_scope``:

    * ``resolution``: the backbone runs once per resolution over all views of that size, the heads once over all views
      (SwAV, arXiv 2006.09882, released code);
    * ``view``: each view passes through backbone and heads separately (ReSA, released code);
    * ``joint``: in a ResNet each batch norm sees all views of all resolutions, except in the downsampling branches
      (:func:`~coterie.models.joint_batch_norm.joint_features`), and so do the heads (SMoG, arXiv 2207.06167, released code).

    In training a batch may be split into several ``micro_batches`` (gradient caching, Gao et al. 2021, arXiv 2101.06983). Batch
    norms see one at a time. All embeddings come out together, so codes and loss are those of the whole batch; activations are
    not stored but recomputed, one micro-batch at a time, in the backward pass, which must run within
    :func:`~coterie.models.activation_checkpointing.freeze_running_stats`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None = None,
        *,
        batch_norm_scope: BatchNormScope = "resolution",
        micro_batches: int = 1,
        frozen: Sequence[str] = (),
    ) -> None:
        """Combine the networks.

        Args:
            backbone: turns images ``[B, C, H, W]`` into features ``[B, F]``.
            projector: turns features ``[N, F]`` into embeddings ``[N, D]``.
            predictor: turns embeddings ``[N, D]`` into predictions ``[N, D]``; None: predictions are the embeddings.
            batch_norm_scope: which views a batch norm sees together.
            micro_batches: number of parts that a training batch is split into; 1: none.
            frozen: names of modules of the backbone that stay in evaluation mode (:func:`coterie.models.layers.freeze`).

        Raises:
            BadConfig: the scope is unknown, or this backbone does not support it.
        """
        super().__init__()
        check_batch_norm_scope(backbone, batch_norm_scope)
        self.backbone = backbone
        self.projector = projector
        self.predictor = predictor
        self.batch_norm_scope = batch_norm_scope
        self.micro_batches = micro_batches
        self.frozen = tuple(frozen)
        self._rest_frozen()
        self._compiled: dict[nn.Module, Callable[..., Any]] | None = None

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode of all modules but the frozen ones, which stay in evaluation mode.

        Args:
            mode: True for training.
        """
        super().train(mode)
        self._rest_frozen()
        return self

    def _rest_frozen(self) -> None:
        for name in self.frozen:
            self.backbone.get_submodule(name).eval()

    def compile_backbone(self, enabled: bool = True) -> None:
        """Compile the backbone's training passes from now on, once per view size.

        Evaluation, and the names and values of the state dict, do not change. Use
        :func:`~coterie.models.compile.compile_passes` to fall back if the compiler fails.

        Args:
            enabled: False switches compilation off again.
        """
        self._compiled = {} if enabled else None

    def _maybe_compiled(self, network: nn.Module) -> Callable[..., Any]:
        """The network, or its compiled form in training: with gradient for a student, without for a teacher."""
        learns = any(each.requires_grad for each in self.parameters())
        if self._compiled is None or not self.training or learns != torch.is_grad_enabled():
            return network
        if network not in self._compiled:
            self._compiled[network] = torch.compile(network, dynamic=False)
        return self._compiled[network]

    def forward(
        self, views: Sequence[Float[Tensor, "b c _ _"]]
    ) -> tuple[Float[Tensor, "v b f"], Float[Tensor, "v b d"], Float[Tensor, "v b d"]]:
        """Encode the V views of B images.

        Args:
            views: one tensor of B images per view; views of one resolution need not be adjacent.

        Returns:
            Features h, unit embeddings z and unit predictions p, in the order of the views. Without a predictor p is z; a
            predictor reads the projector's outputs before they are divided by their norm. z and p are float32 or wider.
        """
        if self.micro_batches == 1 or not self.training:
            return self._encode(views)
        parts = zip(*(view.tensor_split(self.micro_batches) for view in views), strict=True)
        h, z, p = zip(*(checkpoint(self._encode, part, use_reentrant=False) for part in parts), strict=True)
        whole = torch.cat(z, dim=1)
        return torch.cat(h, dim=1), whole, whole if self.predictor is None else torch.cat(p, dim=1)

    def _encode(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = self._features_of_views(views)
        projected = self._through(self.projector, h)
        z = _unit_rows(projected)
        if self.predictor is None:
            return h, z, z
        return h, z, _unit_rows(self._through(self.predictor, projected))

    def project(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        """Compute the unit embeddings z of features.

        Args:
            features: outputs of the backbone.

        Returns:
            Unit embeddings, float32 or wider.
        """
        return _unit_rows(self.projector(features))

    def _features_of_views(self, views: Sequence[Float[Tensor, "b c _ _"]]) -> Float[Tensor, "v b f"]:
        if self.batch_norm_scope == "view":
            return torch.stack([self._maybe_compiled(self.backbone)(_channels_last(view)) for view in views])
        positions: dict[torch.Size, list[int]] = {}
        for position, view in enumerate(views):
            positions.setdefault(view.shape[-2:], []).append(position)
        batches = [_channels_last(torch.cat([views[each] for each in together])) for together in positions.values()]
        if self.batch_norm_scope == "joint":
            rows = joint_features(self.backbone, batches, self._maybe_compiled)
        else:
            rows = [self._maybe_compiled(self.backbone)(batch) for batch in batches]
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
    """Check that a batch-norm scope exists and that the backbone supports it.

    Args:
        backbone: the network.
        scope: one of ``view``, ``resolution`` and ``joint``.

    Raises:
        BadConfig: the scope is unknown, or this backbone does not support it.
    """
    if scope not in get_args(BatchNormScope):
        raise BadConfig(f"batch_norm_scope is {scope!r}: use {', '.join(get_args(BatchNormScope))}")
    if scope == "joint" and not can_join(backbone):
        raise BadConfig(
            f"batch_norm_scope is joint, which works for timm's ResNets but not for a {type(users_module(backbone)).__name__}: "
            "set batch_norm_scope to resolution"
        )


def target_copy(encoder: Encoder) -> Encoder:
    """Copy the backbone and projector of an encoder for a momentum teacher: no predictor and no gradients.

    Drop path and dropout are off, because only the student has them in SMoG (arXiv 2207.06167, released code).

    Args:
        encoder: the student's encoder.

    Returns:
        An encoder whose parameters have the same names and values, in the same mode.
    """
    target = Encoder(
        copy.deepcopy(encoder.backbone),
        copy.deepcopy(encoder.projector),
        batch_norm_scope=encoder.batch_norm_scope,
        micro_batches=encoder.micro_batches,
        frozen=encoder.frozen,
    )
    for module in target.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return target.train(encoder.training).requires_grad_(False)


def _channels_last(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Convert to the memory layout that convolutions prefer, so that compiled code sees only one layout."""
    return images.contiguous(memory_format=torch.channels_last)


def _unit_rows(rows: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)
