"""lightly's own modules, put together as its documented examples and benchmark scripts put them together.

Written from what its documentation and benchmarks say, with nothing copied: each crop goes through the network by itself, the
loss is its ``SwaVLoss`` or a cross-entropy over its ``SMoGPrototypes``. Which network is given from outside, so that all
contestants have the same.
"""

import copy

import torch
from lightly.loss import NTXentLoss, SwaVLoss
from lightly.models.modules import (
    SimCLRProjectionHead,
    SMoGPredictionHead,
    SMoGProjectionHead,
    SMoGPrototypes,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.modules.memory_bank import MemoryBankModule
from lightly.models.utils import deactivate_requires_grad, get_weight_decay_parameters, update_momentum
from lightly.utils.lars import LARS
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

SMOG_GROUPS, SMOG_BANK = 300, 10_000


class SwAV(nn.Module):
    """Two large crops decide, all predict; no queue and no freeze, as in its CIFAR-10 and Imagenette benchmarks."""

    def __init__(self, backbone: nn.Module, width: int, *, hidden: int = 512, groups: int = 512) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = SwaVProjectionHead(width, hidden, 128)
        self.prototypes = SwaVPrototypes(128, groups)
        self.criterion = SwaVLoss()

    def scores(self, images: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.head(self.backbone(images)), dim=1))

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        self.prototypes.normalize()
        scores = [self.scores(view) for view in views]
        return self.criterion(scores[:2], scores[2:])

    def optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        """Of its CIFAR-10 benchmark."""
        return torch.optim.Adam(self.parameters(), lr=1e-3 * batch_size / 128, weight_decay=1e-6)

    def large_optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        """Of its ImageNet benchmark: LARS, without decay of biases and norms."""
        decayed, others = get_weight_decay_parameters([self.backbone, self.head, self.prototypes])
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return LARS(groups, lr=0.6 * batch_size / 256, momentum=0.9, weight_decay=1e-6)


class SimCLR(nn.Module):
    """Two views, each other's positives; temperature 0.5, as in its CIFAR-10 benchmark."""

    def __init__(self, backbone: nn.Module, width: int, *, hidden: int = 512, temperature: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = SimCLRProjectionHead(width, hidden, 128)
        self.criterion = NTXentLoss(temperature=temperature)

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        return self.criterion(*(self.head(self.backbone(view)) for view in views))

    def optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        """Of its CIFAR-10 benchmark."""
        return torch.optim.SGD(self.parameters(), lr=6e-2 * batch_size / 128, momentum=0.9, weight_decay=5e-4)


class SMoG(nn.Module):
    """300 groups, re-clustered every 300 steps from the last 10,000 embeddings; SGD, one rate for every batch size.

    With two views, as documented: one goes through the network, the other through the teacher, and they change places every
    step. With more, which lightly does not document: the teacher sees the two large ones, the network all, and each
    predicts the group of a large view that is not itself.
    """

    every = 300  # steps between two clusterings; 0: none
    transposed = False
    """The published benchmark script turns the bank on its side before clustering it."""

    def __init__(
        self, backbone: nn.Module, width: int, *, hidden: int = 2048, groups: int = SMOG_GROUPS, bank: int = SMOG_BANK
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = SMoGProjectionHead(width, hidden, 128)
        self.predictor = SMoGPredictionHead(128, hidden, 128)
        self.reset_teacher()
        self.smog = SMoGPrototypes(F.normalize(torch.rand(groups, 128), dim=1), beta=0.99)
        self.bank = MemoryBankModule(size=(bank, 128))

    def reset_teacher(self) -> None:
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.projector]))
        deactivate_requires_grad(self.teacher)

    def refit(self) -> None:
        rows = self.bank.bank.T if self.transposed else self.bank.bank
        groups = len(self.smog.group_features)
        centers = KMeans(groups).fit(rows.cpu().numpy()).cluster_centers_
        self.smog.set_group_features(F.normalize(torch.from_numpy(centers).float(), dim=1))

    def scores(self, images: Tensor) -> Tensor:
        return self.smog(self.projector(self.backbone(images)), self.smog.group_features)

    def loss(self, views: list[Tensor], step: int) -> Tensor:
        if self.every and step and step % self.every == 0:
            self.refit()
            self.reset_teacher()
        else:
            for ours, theirs in zip((self.backbone, self.projector), self.teacher, strict=True):
                update_momentum(ours, theirs, 0.99)
        if len(views) > 2:
            return self._loss_of_many(views)
        seen, target = views if step % 2 == 0 else views[::-1]
        rows = self.projector(self.backbone(seen))
        assignments = self._assigned(target)
        moved = self.smog.get_updated_group_features(rows)
        logits = self.smog(self.predictor(rows), moved, temperature=0.1)
        self._keep(moved, rows)
        return F.cross_entropy(logits, assignments)

    def optimizer(self, batch_size: int) -> torch.optim.Optimizer:
        """Of its benchmarks, whatever the batch."""
        moving = [each for each in self.parameters() if each.requires_grad]
        return torch.optim.SGD(moving, lr=0.01, momentum=0.9, weight_decay=1e-6)

    large_optimizer = optimizer  # it documents no other

    def _loss_of_many(self, views: list[Tensor]) -> Tensor:
        rows = [self.projector(self.backbone(view)) for view in views]
        assignments = [self._assigned(view) for view in views[:2]]
        moved = self.smog.get_updated_group_features(rows[0])
        logits = [self.smog(self.predictor(each), moved, temperature=0.1) for each in rows]
        self._keep(moved, rows[0])
        losses = [
            F.cross_entropy(predicted, assigned)
            for large, assigned in enumerate(assignments)
            for view, predicted in enumerate(logits)
            if view != large
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _assigned(self, target: Tensor) -> Tensor:
        return self.smog.assign_groups(self.teacher[1](self.teacher[0](target)))

    def _keep(self, moved: Tensor, rows: Tensor) -> None:
        self.smog.set_group_features(moved.detach())
        self.bank(rows, update=True)
