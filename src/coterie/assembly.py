"""From settings to objects: the only place that reads a whole config and builds from it."""

from dataclasses import dataclass

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


def assemble(config: PretrainConfig, device: torch.device | str = "cpu") -> Parts:
    """Student and objective, as new, from ``config.seed`` alone; the global random state is left as it was."""
    size = max(config.views.sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = build_backbone(config.backbone, size)
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
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadConfig(f"run.device is {name!r}: write auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"run.device is {name}, but torch sees no CUDA device here: use --set run.device=cpu")
    return device


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or where it is automatic and the device has it in hardware."""
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and has) else None
