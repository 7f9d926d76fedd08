"""Training a cell from start to end or from the middle of an epoch, and measuring the result."""

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
"""Steps before the state is saved: in the middle of the second-to-last epoch, so that a refresh comes before and after."""
EVALUATED = {"train": 810, "test": 1620}
"""Patches whose photograph is given, and held-out patches whose photograph is predicted."""


@dataclass
class Run:
    """The parts and the record of a run."""

    config: Any
    parts: TrainingParts
    optimizer: torch.optim.Optimizer
    losses: list[Tensor] = field(default_factory=list)
    used: list[list[set[int]]] = field(
        default_factory=list
    )  # per step and head: the groups that some image was assigned to
    saved: bytes = field(default=b"", repr=False)

    def stateful(self) -> dict[str, Any]:
        """Everything with a state dict, as ``Pretraining`` saves it."""
        return {"student": self.parts.student, "objective": self.parts.objective, "optimizer": self.optimizer}

    def full_state(self) -> dict[str, Any]:
        """All tensors and state dicts, including tensors that no state dict holds."""
        modules = (self.parts.student, self.parts.objective)
        tensors = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in modules]
        return {"tensors": tensors, **{name: part.state_dict() for name, part in self.stateful().items()}}


Batches = list[tuple[Progress, Batch]]


@cache
def _batches(views: ViewPlan, seed: int, start: int | None) -> Batches:
    """The loader's batches from step ``start``, or of the pass that fills the memory (None); the same for all cells."""
    images = Arrays(photo_patches("train", IMAGES, SIDE).images)
    loader = Loader(images, views, batch_size=BATCH, epochs=EPOCHS, seed=seed)
    return list(loader.fill_batches() if start is None else loader.batches(start))


def new_run(cell: Cell, regularizer: dict[str, Any] | None = None) -> Run:
    config = from_dict(settings_of(cell) | ({} if regularizer is None else {"regularizer": regularizer}))
    parts = build_parts(config, images=IMAGES)
    return Run(config, parts, config.optimizer.build(parts.student))


def train(run: Run, start: int = 0) -> Run:
    """Train from step ``start`` to the end, and save the state on the way."""
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
def uninterrupted(cell: Cell) -> Run:
    """The run without interruption, which two tests of a cell use."""
    return train(new_run(cell))


def resumed(cell: Cell, saved: bytes, regularizer: dict[str, Any] | None = None) -> Run:
    """New parts that load the saved state and train to the end."""
    run = new_run(cell, regularizer)
    state = torch.load(io.BytesIO(saved), weights_only=True)
    for name, part in run.stateful().items():
        part.load_state_dict(state[name])
    return train(run, SAVED)


def _saved(run: Run) -> bytes:
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in run.stateful().items()}, file)
    return file.getvalue()


@cache
def _patches_to_evaluate(split: str) -> tuple[Tensor, Tensor]:
    patches = photo_patches(split, EVALUATED[split], SIDE)
    pixels = torch.from_numpy(patches.images).permute(0, 3, 1, 2) / 255
    return (pixels - MEAN[0]) / STD[0], torch.from_numpy(patches.labels)


@torch.no_grad()
def knn_score(backbone: nn.Module) -> float:
    """Accuracy in percent of a 10-nearest-neighbor prediction of the photograph, by features in eval mode."""
    backbone.eval()
    (train, train_labels), (test, test_labels) = _patches_to_evaluate("train"), _patches_to_evaluate("test")
    figures = knn(backbone(train), train_labels, backbone(test), test_labels, neighbors=(10,), temperatures=(0.07,))
    return figures["k10_t0.07_top1"]


@cache
def untrained_knn_score() -> float:
    """The same for the network with which all cells start.

    Its batch norms see all training patches once before: with their initial statistics, mean 0 and variance 1, the
    comparison would not be fair.
    """
    backbone = new_run(Cell("learned", "sinkhorn", "same", "batch")).parts.student.encoder.backbone.train()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # an average over all batches
    with torch.no_grad():
        backbone(_patches_to_evaluate("train")[0])
    return knn_score(backbone)


@torch.no_grad()
def effective_rank(run: Run) -> float:
    """exp of the entropy of the normalized spectrum of the covariance of the held-out patches' embeddings."""
    encoder = run.parts.student.encoder.eval()
    rows = F.normalize(encoder.projector(encoder.backbone(_patches_to_evaluate("test")[0])), dim=1).double()
    spectrum = torch.linalg.svdvals(torch.cov(rows.T))
    return float(torch.special.entr(spectrum / spectrum.sum()).sum().exp())
