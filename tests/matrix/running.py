"""A cell trained from the start to the end, or from the middle of an epoch on; and what came of it."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.config.toml import from_dict
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.builtin_photos import photo_patches
from coterie.evaluation.probes.knn import knn
from coterie.training.build import TrainingParts, build_parts
from coterie.training.loop import fit
from coterie.types import Batch, Progress, StepResult
from tests.matrix.cells import BATCH, EPOCHS, IMAGES, MEAN, SIDE, STD, Cell, settings_of

STEPS = IMAGES // BATCH
SAVED = (EPOCHS - 2) * STEPS + 4
"""Steps done when the state is saved: in the middle of the last epoch but one, so that a refresh comes before and after."""
JUDGED = {"train": 810, "test": 1620}
"""Patches whose photograph is known, and held-out patches for which it is guessed."""


@dataclass
class Run:
    """What a run left."""

    config: Any
    parts: TrainingParts
    optimizer: torch.optim.Optimizer
    losses: list[Tensor] = field(default_factory=list)
    used: list[list[set[int]]] = field(default_factory=list)  # per step, per head: the groups that were somebody's best
    saved: bytes = field(default=b"", repr=False)

    def stateful(self) -> dict[str, Any]:
        """What is saved, as ``Pretraining`` does."""
        return {"student": self.parts.student, "objective": self.parts.objective, "optimizer": self.optimizer}

    def everything(self) -> dict[str, Any]:
        """All that is kept, whether it is in a state dict or not."""
        modules = (self.parts.student, self.parts.objective)
        tensors = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in modules]
        return {"tensors": tensors, **{name: part.state_dict() for name, part in self.stateful().items()}}


Batches = list[tuple[Progress, Batch]]


@cache
def _batches(views: ViewPlan, seed: int, start: int | None) -> Batches:
    """What the loader gives from step ``start`` on, or (None) for the filling pass; made once, for it is alike in all cells."""
    images = Arrays(photo_patches("train", IMAGES, SIDE).images)
    loader = Loader(images, views, batch_size=BATCH, epochs=EPOCHS, seed=seed)
    return list(loader.fill_batches() if start is None else loader.batches(start))


def begun(cell: Cell) -> Run:
    config = from_dict(settings_of(cell))
    parts = build_parts(config, images=IMAGES)
    return Run(config, parts, config.optimizer.build(parts.student))


def go(run: Run, start: int = 0) -> Run:
    """Train from step ``start`` to the end; what was saved on the way is in ``saved``."""
    config = run.config

    def filling() -> Batches:
        return _batches(config.views, config.seed, None)

    def observe(progress: Progress, result: StepResult) -> None:
        run.losses.append(result.loss.detach())
        heads: list[set[int]] = [set() for _ in range(1 + max(target.head for target in result.targets))]
        for target in result.targets:
            values = target.values
            best = values.argmax(dim=1) if values.dtype.is_floating_point else values[values >= 0]
            heads[target.head].update(best.tolist())
        run.used.append(heads)
        if progress.step + 1 == SAVED:
            run.saved = _saved(run)

    batches = _batches(config.views, config.seed, start)
    rate: Callable[[Progress], float] = config.learning_rate.at
    student, objective = run.parts.student, run.parts.objective
    fit(student, objective, batches, run.optimizer, rate, fill_batches=filling, seed=config.seed, on_step_end=[observe])
    return run


@cache
def whole(cell: Cell) -> Run:
    """The run without interruption; both tests of a cell look at it."""
    return go(begun(cell))


def resumed(cell: Cell, saved: bytes) -> Run:
    """New parts that take over what was saved, and go on."""
    run = begun(cell)
    state = torch.load(io.BytesIO(saved), weights_only=True)
    for name, part in run.stateful().items():
        part.load_state_dict(state[name])
    return go(run, SAVED)


def _saved(run: Run) -> bytes:
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in run.stateful().items()}, file)
    return file.getvalue()


@cache
def _judged(split: str) -> tuple[Tensor, Tensor]:
    patches = photo_patches(split, JUDGED[split], SIDE)
    pixels = torch.from_numpy(patches.images).permute(0, 3, 1, 2) / 255
    return (pixels - MEAN[0]) / STD[0], torch.from_numpy(patches.labels)


@torch.no_grad()
def knn_score(backbone: nn.Module) -> float:
    """Percent of held-out patches whose photograph ten neighbors name, by the features in eval mode."""
    backbone.eval()
    (known, truth), (guessed, answer) = _judged("train"), _judged("test")
    figures = knn(backbone(known), truth, backbone(guessed), answer, neighbors=(10,), temperatures=(0.07,))
    return figures["k10_t0.07_top1"]


@cache
def untrained_knn_score() -> float:
    """The same for the network that all cells begin with.

    Its batch norms first see all known patches once: the statistics that they are made with, mean 0 and variance 1, would
    be no fair rival.
    """
    backbone = begun(Cell("learned", "sinkhorn", "same", "batch")).parts.student.encoder.backbone.train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that was seen
    with torch.no_grad():
        backbone(_judged("train")[0])
    return knn_score(backbone)


@torch.no_grad()
def effective_rank(run: Run) -> float:
    """exp of the entropy of the spectrum (eigenvalues as shares) of the covariance of the held-out patches' embeddings."""
    encoder = run.parts.student.encoder.eval()
    rows = F.normalize(encoder.projector(encoder.backbone(_judged("test")[0])), dim=1).double()
    spectrum = torch.linalg.svdvals(torch.cov(rows.T))
    return float(torch.special.entr(spectrum / spectrum.sum()).sum().exp())
