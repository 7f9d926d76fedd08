"""One process of ``processes.py``: real steps on views that are there, timed, and then with every collective noted.

Started by torchrun or alone; writes ``RANK.json`` to the folder that it is given.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collectives import Notes, seen

from coterie.config.facts import Facts
from coterie.config.hardware import choose_autocast
from coterie.config.schema import PretrainConfig
from coterie.data.augmentation.view_plan import Crops
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays
from coterie.distributed.processes import process_group, rank, world_size, wrap_ddp
from coterie.grouping.groups import LearnedGroupsConfig
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.training.build import TrainingParts, build_parts
from coterie.training.checkpoint_schedule import Checkpointer
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.training.profiling.rehearsal import simulate_full_memory
from coterie.training.run_state import RunState
from coterie.types import Batch, Progress

STEPS = 10_000_000
"""Steps of an epoch that never ends, so that nothing is refreshed while time is taken."""
DEVICE = torch.device("cpu")
LARGE = {"swav": "swav_imagenet_4096", "smog": "smog_imagenet"}
GROUPS = 3000
LOADED = 5
"""Batches that the loader's time is taken of."""


def settings(method: str, options: argparse.Namespace) -> PretrainConfig:
    """The preset for CIFAR-10, or with ``--large`` that for ImageNet, its views made smaller."""
    batch = options.batch // (int(os.environ.get("WORLD_SIZE", "1")) if options.apart else 1)
    if options.large:
        config = METHODS[LARGE[method]](Planner(Facts(1_281_167, 375), batch_size=batch))
        crops = tuple(Crops(each.count, 64 if each.size > 96 else 32, each.scale) for each in config.views.crops)
        config = replace(config, views=replace(config.views, crops=crops))
        groups: Any = replace(config.groups, counts=tuple(GROUPS for _ in config.group_counts))  # type: ignore[type-var]
        memory = config.memory and replace(config.memory, length=4 * GROUPS)  # an epoch's would be a gigabyte
        config = replace(config, groups=groups, memory=memory)
    else:
        config = METHODS[method](Planner(Facts(50_000, 32), epochs=200, batch_size=batch, backbone="resnet18"))
    if isinstance(config.groups, LearnedGroupsConfig):
        config = replace(config, groups=replace(config.groups, frozen_steps=0))
    if options.toy:
        config = replace(config, backbone=replace(config.backbone, name="resnet18", width=0.125))
    run = replace(config.run, log_steps=options.noted)
    return replace(config, batch_norm_processes=1 if options.batch_norm_alone else 0, run=run)


class Steps:
    """The steps of a run on noise, through the product's own loop and observers."""

    def __init__(self, config: PretrainConfig, folder: Path) -> None:
        self.config, self.done = config, 1  # a refresh comes before step 0
        self.parts: TrainingParts = build_parts(config, DEVICE, images=50_000)
        simulate_full_memory(self.parts.objective, config, 50_000)
        self.optimizer = config.optimizer.build(self.parts.student)
        rows, rate = config.assigned_rows, config.learning_rate
        self.monitor = Monitor(config.group_counts, rows, rate, log_steps=config.run.log_steps, write=lambda _: None)
        state = RunState(threads=1, images=50_000)
        self.saver = Checkpointer(folder, {}, self.monitor, state, steps=0, minutes=1e9, also=lambda _: lambda: None)
        self.share = config.batch_size // world_size()
        generator = torch.Generator().manual_seed(rank())
        self.views = {
            number: torch.randn(self.share, 3, side, side, generator=generator)
            for number, side in enumerate(config.views.sizes)
        }

    def batches(self, count: int) -> Iterator[tuple[Progress, Batch]]:
        index = torch.arange(self.share) + rank() * self.share
        for _ in range(count):
            yield Progress(self.done, STEPS, STEPS * self.config.epochs), Batch(index, self.views)
            self.done += 1

    def go(self, student: torch.nn.Module, count: int, *observers: Any) -> None:
        """So many steps."""
        config = self.config
        fit(
            student,
            self.parts.objective,
            self.monitor.timed(self.batches(count)),
            self.optimizer,
            config.learning_rate.at,
            autocast=choose_autocast(config.run.precision, DEVICE),
            clip_grad_norm=config.clip_grad_norm,
            seed=config.seed,
            on_step_end=[self.monitor.on_step_end, self.saver.on_step_end, *observers],
        )


class Clock:
    """Seconds from the end of the warm-up on, by the wall's clock and by this process's CPU time (an observer)."""

    def __init__(self, warm_up: int, together: Any) -> None:
        self.warm_up, self.together, self.steps = warm_up, together, 0
        self.since = (0.0, 0.0)

    def __call__(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self.warm_up:
            self.together()
            self.since = (time.perf_counter(), time.process_time())

    def a_step(self) -> dict[str, float]:
        now, steps = (time.perf_counter(), time.process_time()), self.steps - self.warm_up
        return {name: (now[i] - self.since[i]) / steps for i, name in enumerate(("wall", "cpu"))}


def meet(folder: Path, what: str) -> None:
    """Processes that do not speak wait for each other by files, so that they work at the same time."""
    (folder / f"{what}-{os.environ.get('RANK', '0')}").touch()
    while len(list(folder.glob(f"{what}-*"))) < int(os.environ.get("WORLD_SIZE", "1")):
        time.sleep(0.001)


def loading(config: PretrainConfig) -> float:
    """Seconds in which the product's loader makes this process's part of a batch, in the process itself, from arrays."""
    noise = np.random.default_rng(0).integers(0, 256, (4 * config.batch_size, 32, 32, 3), np.uint8)
    shared = {"rank": rank(), "world_size": world_size()}
    loader = Loader(Arrays(noise), config.views, batch_size=config.batch_size, epochs=10, seed=0, workers=0, **shared)
    stream = loader.batches()
    next(stream)
    began = time.perf_counter()
    for _ in range(LOADED):
        next(stream)
    return (time.perf_counter() - began) / LOADED


def measured(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one process has to say of a method."""
    config = settings(method, options)
    steps = Steps(config, options.folder / "nothing")
    found: dict[str, Any] = {"weights": sum(each.numel() for each in steps.parts.student.parameters())}
    if options.steps:
        clock = Clock(options.warm_up, lambda: meet(options.folder, method))
        steps.go(wrap_ddp(steps.parts.student), options.warm_up + options.steps, clock)
        found |= clock.a_step() | {"loader": loading(config)}
    if options.noted and world_size() > 1:
        notes, student = Notes(), seen(wrap_ddp(steps.parts.student))
        steps.go(student, 1)  # after which DDP lays its parts out anew
        with notes.taken():  # so many steps hold one line of the log
            steps.go(student, options.noted, notes.cut)
        found["notes"] = notes.as_lists()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--methods", required=True)
    parser.add_argument("--batch", type=int, required=True, help="of all processes together")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--noted", type=int, default=0)
    parser.add_argument("--large", action="store_true", help="ResNet-50 and 3,000 groups")
    parser.add_argument("--batch-norm-alone", action="store_true")
    parser.add_argument("--apart", action="store_true", help="each a run of its own, of its share of the batch")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with nullcontext() if options.apart else process_group(DEVICE):
        found = {method: measured(method, options) for method in options.methods.split(",")}
    out = options.folder / f"{os.environ.get('RANK', '0')}.json"
    out.write_text(json.dumps(found | {"precision": str(choose_autocast("auto", DEVICE) or torch.float32)}))


if __name__ == "__main__":
    main()
