"""The share of a training step that is spent in grouping: scores, assignment, loss, group update, forward and backward.

    python benchmarks/grouping.py [--device cpu|cuda] [--groups 3000] [--batch 4096] [--network-batch N] [--repeats 5]

The published presets ``swav_imagenet_4096`` (one head of 3,000 groups, 2x224 + 6x96) and ``smog_imagenet`` (three heads, two
families of 2x224 + 4x96) in front of a ResNet-50. Three things are timed in turn, each by itself:

* grouping: the objective on embeddings that are there, from the scores to the gradient at the embeddings, the update of the
  groups and of the memory, and what comes after the step;
* network: student forward and backward and, in SMoG, the teacher's forward, on views of noise that are there, in the
  precision that the plan would choose, at ``--network-batch``;
* weights: the optimizer's step and, in SMoG, the teacher's move.

The step of ``--batch`` images is grouping + network times (batch / network batch) + weights: 4,096 images do not fit on one
device, and the network's time is in proportion to them. The share is grouping over that.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alternating import RESULTS, alternate, command, limit_threads, machine, write_report

THREADS = limit_threads()  # before numpy and torch come in

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.config.facts import Facts
from coterie.config.hardware import choose_autocast
from coterie.config.schema import PretrainConfig
from coterie.data.augmentation.view_plan import Crops
from coterie.grouping.groups import Groups
from coterie.grouping.teacher import MomentumTeacher
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.models.backbone import BackboneConfig
from coterie.training.build import build_parts
from coterie.types import Batch, Progress, Roles

PRESETS = {"swav": "swav_imagenet_4096", "smog": "smog_imagenet"}
PACKAGES = ("coterie", "torch", "timm")
PROGRESS = Progress(step=400, steps_per_epoch=1000, total_steps=100_000)  # no group is frozen, nothing is refreshed
TOY = BackboneConfig("resnet18", width=0.125)


class Given(nn.Module):
    """A target network whose embeddings are there already."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings

    def before_step(self, progress: Progress) -> None: ...

    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.embeddings, self.embeddings

    def centers(self, groups: Groups) -> list[Tensor]:
        return groups.centers()

    def after_step(self, progress: Progress) -> None: ...

    def copy_from_student(self) -> None: ...


def settings(method: str, options: argparse.Namespace, batch: int) -> PretrainConfig:
    """The published preset; a toy's has small views and a narrow network."""
    config = METHODS[PRESETS[method]](Planner(Facts(1_281_167, 375), batch_size=batch))
    counts = tuple(options.groups for _ in config.groups.counts)  # type: ignore[union-attr]
    groups: Any = replace(config.groups, counts=counts)  # type: ignore[type-var]
    if config.memory is not None:  # an epoch's rows would be a gigabyte; what is pushed is the same
        config = replace(config, memory=replace(config.memory, length=4 * batch))
    if options.toy:
        crops = tuple(Crops(each.count, each.size // 7, each.scale) for each in config.views.crops)
        config = replace(config, views=replace(config.views, crops=crops), backbone=TOY)
    return replace(config, groups=groups)


def grouping(method: str, options: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """One pass through the objective, on embeddings that are there."""
    config = settings(method, options, options.batch)
    objective = build_parts(config, device, images=10 * options.batch).objective
    roles, generator = config.views.roles, torch.Generator().manual_seed(0)

    def rows(views: int) -> Tensor:
        made = torch.randn(views, options.batch, config.projector.width, generator=generator)
        return F.normalize(made, dim=-1).to(device)

    z, predictions = rows(len(roles.student_views)).requires_grad_(), rows(len(roles.student_views)).requires_grad_()
    p = z if config.predictor is None else predictions
    h = torch.zeros(len(roles.student_views), options.batch, 1, device=device)
    if isinstance(objective.target, MomentumTeacher):
        objective.target = Given(rows(len(roles.target_views)))
    batch = Batch(torch.arange(options.batch, device=device), dict.fromkeys(roles.used, h))

    def once() -> None:
        result = objective(lambda views: (h, z, p), batch, PROGRESS)
        result.loss.backward()
        objective.after_backward(PROGRESS)
        objective.after_step(PROGRESS)
        z.grad = predictions.grad = None
        for head in getattr(objective.groups, "heads", ()):
            head.grad = None

    return once


def network(method: str, options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], None]]:
    """Forward and backward of the networks, and what moves the weights."""
    config = settings(method, options, options.network_batch)
    parts = build_parts(config, device, images=10 * options.network_batch)
    student, target, roles = parts.student.train(), parts.objective.target, config.views.roles
    views = {v: torch.randn(options.network_batch, 3, s, s, device=device) for v, s in enumerate(config.views.sizes)}
    optimizer, dtype = config.optimizer.build(student), choose_autocast("auto", device)

    def forward_and_backward() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            h, z, p = student([views[v] for v in roles.student_views])
            target.embed(views, roles, h, z)
        student.zero_grad(set_to_none=True)
        (p.sum() + z.sum()).backward()

    def move() -> None:
        optimizer.step()
        target.before_step(PROGRESS)
        target.after_step(PROGRESS)

    return {"network": forward_and_backward, "weights": move}


def measured(method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each of the three, and the share of grouping."""
    device = torch.device(options.device)
    turns = {"grouping": grouping(method, options, device)} | network(method, options, device)
    for turn in turns.values():
        turn()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    peak = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        turns["grouping"]()
        peak = round((torch.cuda.max_memory_allocated(device) - held) / 2**20, 1)
    times, _ = alternate(turns, options.repeats, wait)
    found = {name: each.rounded() for name, each in times.items()}
    clock = "seconds" if device.type == "cuda" else "cpu_seconds"
    scale = options.batch / options.network_batch
    step = found["grouping"][clock] + scale * found["network"][clock] + found["weights"][clock]
    return {
        "share_of_grouping": round(found["grouping"][clock] / step, 5),
        "seconds_a_step": round(step, 4),
        "grouping_peak_mib": peak,
        "parts": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", default="swav,smog")
    parser.add_argument("--groups", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--network-batch", type=int, help="else 4 on a CPU, 128 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--toy", action="store_true", help="small views, a narrow network: a trial, not a measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.network_batch = options.network_batch or (128 if options.device.startswith("cuda") else 4)
    options.out = options.out or RESULTS / f"grouping_{torch.device(options.device).type}.json"
    torch.set_num_threads(THREADS)
    report = {
        "command": command(),
        "what": "share of a training step that is spent in grouping",
        "aim": "3 % or less in front of a ResNet-50 on a GPU, at 3,000 groups and 4,096 images",
        **machine(PACKAGES, options.device),
        "threads": THREADS,
        "precision": str(choose_autocast("auto", torch.device(options.device)) or torch.float32),
        "groups": options.groups,
        "batch": options.batch,
        "network_batch": options.network_batch,
        "repeats": options.repeats,
        "methods": {},
    }
    for method in options.methods.split(","):
        report["methods"][method] = measured(method, options)
        shown = {key: value for key, value in report["methods"][method].items() if key != "parts"}
        sys.stdout.write(f"{method}: {json.dumps(shown)}\n")
        write_report(options.out, report)


if __name__ == "__main__":
    main()
