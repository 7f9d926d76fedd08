"""A tiny run in float64, on one or several processes: its losses and its final state."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from coterie.config.toml import from_dict
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.builtin_photos import photo_patches
from coterie.distributed.collectives import all_gather, all_reduce_sum
from coterie.distributed.fsdp import ShardedStudent, full_state_dict
from coterie.distributed.processes import rank, world_size, wrap_ddp
from coterie.optim.optimizer import scheduled_decay
from coterie.training.build import TrainingParts, build_optimizer, build_parts
from coterie.training.loop import fit
from coterie.types import Batch, Progress, StepResult
from tests.forkserver import start_processes
from tests.matrix.cells import SIDE, Cell, settings_of

IMAGES, BATCH, EPOCHS = 78, 24, 3  # 3 steps per epoch, which leave out 6 images
STEPS = IMAGES // BATCH * EPOCHS
LENGTH = IMAGES // BATCH * BATCH


def _cell(*kinds: str, **changes: Any) -> dict[str, Any]:
    settings = settings_of(Cell(*kinds))
    augmentation = settings["views"]["crops"][0]["augmentation"]
    settings["views"]["crops"].append({"count": 2, "size": 8, "scale": [0.1, 0.3], "augmentation": augmentation})
    settings |= {"epochs": EPOCHS, "batch_size": BATCH}
    if "memory" in settings:
        settings["memory"]["length"] = LENGTH
    if kinds[0] != "batch":
        settings["groups"]["counts"] = [8, 5]
    for path, value in changes.items():
        place = settings
        *above, last = path.split("__")
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return settings


CASES: dict[str, dict[str, Any]] = {
    "swav": _cell("learned", "sinkhorn", "same", "batch", memory={"length": 2 * BATCH, "start_epoch": 1}),
    "smog": _cell("momentum", "nearest", "teacher", "batch", refresh__reset_teacher=True, predictor={"width": 32}),
    "smog_gradient": _cell("momentum", "nearest", "teacher", "batch", groups__gradient=True, batch_norm_scope="joint"),
    "deepcluster_v2": _cell("kmeans", "nearest", "same", "epoch", regularizer={"kind": "coding_rate", "weight": 0.1}),
    "sela_v2": _cell("learned", "sinkhorn", "same", "epoch", regularizer={"kind": "variance_covariance"}),
    "dino": _cell("learned", "centered", "teacher", "batch", target__covers_groups=True),
    "msn": _cell("learned", "softmax", "same", "batch"),
    "simclr": _cell("batch", "identity", "same", "batch", groups__gradient=True, regularizer={"kind": "uniformity"}),
    "resa": _cell("batch", "sinkhorn", "teacher", "batch", batch_norm_scope="view", regularizer={"kind": "koleo"}),
    "frozen": _cell(
        "momentum",
        "nearest",
        "teacher",
        "batch",
        backbone__trainable="last:3",
        backbone__frozen_statistics=True,
        optimizer={
            "kind": "adamw",
            "weight_decay": {"kind": "cosine", "peak": 0.04, "final": 0.4},
            "layer_decay": 0.7,
        },
    ),
}


def carry(
    case: str,
    start: int,
    until: int,
    state: dict[str, Any] | None,
    changes: dict[str, Any] | None = None,
    adapt: Callable[[TrainingParts], None] | None = None,
) -> dict[str, Any]:
    """Train from step ``start`` to ``until``; returns losses and image indices of the full batches, and the final state.

    ``changes`` are applied to the case's settings, ``adapt`` to the parts built from them.
    """
    config = from_dict(CASES[case] | (changes or {}))
    parts = build_parts(config, images=IMAGES)
    if adapt is not None:
        adapt(parts)
    student, objective = parts.student.double(), parts.objective.double()
    trained = ShardedStudent(student) if config.run.fsdp else student
    optimizer = build_optimizer(config, student, trained)
    if state is not None:
        for name, part in (("student", student), ("objective", objective), ("optimizer", optimizer)):
            part.load_state_dict(state[name])
    losses: list[float] = []
    indices: list[torch.Tensor] = []

    def observe(progress: Progress, result: StepResult) -> None:
        losses.append(float(all_reduce_sum(result.loss.detach()) / world_size()))
        indices.append(all_gather(result.index).flatten())

    loaded = partial(_batches, config.views, config.seed, rank(), world_size())
    rate = config.learning_rate.at
    called = trained if config.run.fsdp else wrap_ddp(student)
    fit(
        called,
        objective,
        loaded(start, until),
        optimizer,
        rate,
        weight_decay=scheduled_decay(config.optimizer),
        fill_batches=loaded,
        clip_grad_norm=config.clip_grad_norm,
        seed=config.seed,
        on_step_end=[observe],
    )
    memory = getattr(objective, "memory", None)
    if memory is not None and memory.written and world_size() > 1:
        rows = all_gather(memory.rows)
        assert not torch.equal(rows[0], rows[1]), "all processes keep the same rows"
    kept = {"student": student, "objective": objective, "optimizer": optimizer}
    state = {name: copy.deepcopy(full_state_dict(part.state_dict())) for name, part in kept.items()}
    return {"losses": losses, "indices": indices, "state": state}


@cache
def _batches(
    views: ViewPlan, seed: int, rank: int, world_size: int, start: int | None = None, until: int = 0
) -> list[tuple[Progress, Batch]]:
    """In double: the batches from step to step, or of the pass that fills the memory; the same for all cases."""
    images = Arrays(photo_patches("train", IMAGES, SIDE).images)
    shares = {"rank": rank, "world_size": world_size}
    loader = Loader(images, views, batch_size=BATCH, epochs=EPOCHS, seed=seed, **shares)
    loaded = loader.fill_batches() if start is None else islice(loader.batches(start), until - start)
    return [
        (progress, Batch(batch.index, {number: view.double() for number, view in batch.views.items()}, batch.bad))
        for progress, batch in loaded
    ]


@contextmanager
def one_of(world: int, number: int, folder: str) -> Iterator[None]:
    """Join a group of ``world`` processes, which meet in a folder, as the process of that number."""
    torch.set_num_threads(1)
    np.seterr(all="raise")
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=number, world_size=world)
    assert (world_size(), rank()) == (world, number)
    yield
    dist.destroy_process_group()


def on_processes(world: int, folder: Path, start: int, until: int, states: dict[str, Any] | None) -> dict[str, Any]:
    """Run ``carry`` for every case on so many processes; one is this process."""
    if world == 1:
        return {case: carry(case, start, until, states and states[case]["state"]) for case in CASES}
    folder.mkdir()
    torch.save(states, folder / "before.pt")
    start_processes(_work, (world, str(folder), start, until), nprocs=world)
    return torch.load(folder / "after.pt", weights_only=True)


def _work(number: int, world: int, folder: str, start: int, until: int) -> None:
    with one_of(world, number, folder):
        states = torch.load(f"{folder}/before.pt", weights_only=True)
        done = {case: carry(case, start, until, states and states[case]["state"]) for case in CASES}
        if number == 0:
            torch.save(done, f"{folder}/after.pt")
