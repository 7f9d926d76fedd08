"""From settings to objects: the only place that reads a whole config and builds from it."""

import os
from dataclasses import dataclass, replace

import torch

from coterie.config import PretrainConfig
from coterie.embedding.embed import Eye
from coterie.errors import BadConfig, UserError
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.memory import Memory
from coterie.grouping.objective import Objective
from coterie.models.backbone import build_backbone, check_view_sizes, feature_width
from coterie.models.encoder import Encoder
from coterie.models.head import Head
from coterie.training.student import Student


@dataclass(frozen=True)
class Parts:
    """What is trained and what trains it."""

    student: Student
    objective: Objective


def assemble(config: PretrainConfig, device: torch.device | str = "cpu", *, starting_weights: bool = True) -> Parts:
    """Student and objective, as new, from ``config.seed`` alone; the global random state is left as it was.

    ``starting_weights`` off leaves the file of ``backbone.weights`` alone: a checkpoint will be loaded, and need not have it.
    """
    size = max(config.views.sizes)
    network = config.backbone if starting_weights else replace(config.backbone, weights=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = build_backbone(network, size)
        check_view_sizes(backbone, config.backbone, config.views.sizes)
        encoder = Encoder(backbone, Head(feature_width(backbone), config.projector))
        groups = LearnedGroups.build(config.groups, config.projector.width)
    student = Student(encoder, groups).to(device)
    student = student.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU
    roles = config.views.roles
    memory = None
    if config.memory is not None:
        memory = Memory(
            config.memory.length,
            len(roles.grouped_views),
            config.projector.width,
            batch_size=config.batch_size,
            start_epoch=config.memory.start_epoch,
        )
    objective = Objective(groups, config.assignment, roles, temperature=config.temperature, memory=memory)
    return Parts(student, objective.to(device))


def eye(config: PretrainConfig) -> Eye:
    """How whole images are brought to the trained network."""
    assert config.views.mean is not None
    assert config.views.std is not None
    return Eye(max(config.views.sizes), config.views.channels, config.views.mean, config.views.std)


def choose_device(name: str) -> torch.device:
    """The device that is meant; ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise BadConfig(f"run.device is {name!r}: write auto, cpu, cuda or cuda:0")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"run.device is {name}, but torch sees no CUDA device of that name: use --set run.device=cpu")
    return torch.device(name)


def choose_workers(number: int) -> int:
    """How many processes load images; -1: as many as there are cores to spare, at least 1 and at most 16."""
    if number < -1:
        raise BadConfig(f"workers is {number}: give 0 (none), more, or -1 (as many as there are cores to spare)")
    return number if number >= 0 else max(1, min(16, len(os.sched_getaffinity(0)) - 1))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or where it is automatic and the device has it in hardware."""
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and has) else None
