"""From settings to objects: student, objective, loader."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from coterie.config.hardware import Runtime, choose_engine, has_bfloat16
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.distributed.fsdp import check_can_shard, full_state_dict, shard_network
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig, UserError
from coterie.grouping.assignment import Assignment, CenteredConfig, build_assignment
from coterie.grouping.batch_objective import BatchGroupsConfig, BatchObjective, Identity
from coterie.grouping.groups import Groups, build_groups
from coterie.grouping.memory_queue import Memory
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork, TargetNetwork
from coterie.models.activation_checkpointing import enable_activation_checkpointing
from coterie.models.backbone import build_backbone, check_view_sizes, feature_width
from coterie.models.compile import compile_passes
from coterie.models.encoder import Encoder, target_copy
from coterie.models.head import Head
from coterie.models.sync_batch_norm import convert_sync_batch_norm
from coterie.training.loop import ObjectiveLike
from coterie.training.student import Student


@runtime_checkable
class TrainedObjective(ObjectiveLike, Protocol):
    """An objective that is a ``torch.nn.Module``, so that a run can move, save and restore it."""

    def to(self, device: torch.device) -> Any:
        """Move it to a device."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore the state."""


@dataclass(frozen=True)
class TrainingParts:
    """What is trained, and what trains it.

    Attributes:
        student: everything that the optimizer moves.
        objective: a module that turns its embeddings into a loss.
    """

    student: Student
    objective: TrainedObjective


@dataclass(frozen=True)
class CustomParts:
    """Parts of your own in place of those of the settings, for :func:`coterie.pretrain`; each is optional.

    A part that is a ``torch.nn.Module`` is saved and restored with the run. The same parts are to be given again to resume.

    Attributes:
        assignment: turns cosine_scores into targets (the protocol :class:`coterie.grouping.assignment.Assignment`).
        groups: a module with the centers (the protocol :class:`coterie.grouping.groups.Groups`); the optimizer moves its
            parameters.
        target: from the student, builds the network that decides the targets (the protocol
            :class:`coterie.grouping.teacher.TargetNetwork`).
        objective: from the student and the config, builds a whole objective, a module with the methods of
            :class:`coterie.training.loop.ObjectiveLike`.
    """

    assignment: Assignment | None = None
    groups: Groups | None = None
    target: Callable[[Student], TargetNetwork] | None = None
    objective: Callable[[Student, PretrainConfig], TrainedObjective] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """``part=class`` of each, for ``config.toml``."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return tuple(f"{name}={_qualified_name(part)}" for name, part in given.items() if part is not None)


def _qualified_name(part: object) -> str:
    named = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def build_loader(config: PretrainConfig, source: ImageSource, runtime: Runtime) -> Loader:
    """The batches of a run.

    Raises:
        BadConfig: a batch, or groups, that are more than the images.
    """
    loader = Loader(
        source,
        config.views,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        workers=runtime.workers,
        device=runtime.device,
        engine=choose_engine(config.views.engine, runtime.device)[0],
        rank=rank(),
        world_size=world_size(),
        images=config.images,
    )
    if config.batch_size < 2 * config.micro_batches * world_size():
        raise BadConfig(
            f"micro_batches is {config.micro_batches}, but each of {world_size()} processes has only "
            f"{config.batch_size // world_size()} images of a batch: use --set micro_batches=1"
        )
    groups, rows = config.groups, loader.steps_per_epoch * config.batch_size
    if not isinstance(groups, BatchGroupsConfig) and max(groups.counts) > rows:
        raise BadConfig(
            f"groups.counts is {max(groups.counts)}, more than the {rows} images of an epoch: "
            f"use --set groups.counts={max(2, rows // 20)} or less"
        )
    return loader


def build_student(
    config: PretrainConfig,
    device: torch.device | str = "cpu",
    *,
    starting_weights: bool = True,
    custom: CustomParts | None = None,
) -> Student:
    """A new student, from ``config.seed`` alone; the global random state is left as it was.

    Args:
        config: of the run.
        device: where the student is to be.
        starting_weights: read the file of ``backbone.weights``; not needed where a checkpoint will be loaded.
        custom: groups in place of those of the settings.
    """
    sizes = {*config.views.sizes, config.views.center_crop_size}
    network = config.backbone if starting_weights else replace(config.backbone, weights=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = build_backbone(network, max(sizes))
        check_view_sizes(backbone, config.backbone, sizes)
        projector = Head(feature_width(backbone), config.projector)
        predictor = Head(config.projector.width, config.predictor) if config.predictor is not None else None
        encoder = Encoder(
            backbone,
            projector,
            predictor,
            batch_norm_scope=config.batch_norm_scope,
            micro_batches=config.micro_batches,
        )
        groups: Groups | None = None if custom is None else custom.groups
        if groups is None and not isinstance(config.groups, BatchGroupsConfig):
            groups = build_groups(config.groups, config.projector.width)
    student = Student(encoder, groups).to(device)
    return student.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU


def build_parts(
    config: PretrainConfig,
    device: torch.device | str = "cpu",
    *,
    images: int = 0,
    starting_weights: bool = True,
    custom: CustomParts | None = None,
) -> TrainingParts:
    """A new student and its objective.

    Args:
        config: of the run.
        device: where both are to be.
        images: how many the source has, for methods that keep a label for each.
        starting_weights: read the file of ``backbone.weights``.
        custom: parts in place of those of the settings.
    """
    custom = custom or CustomParts()
    torch.backends.cudnn.benchmark = True  # few sizes, many times
    where, shared_out = torch.device(device), config.run.fsdp
    if shared_out:
        check_can_shard()
    built = torch.device("cpu") if shared_out else where  # what no device holds is never there as a whole
    student = build_student(config, built, starting_weights=starting_weights, custom=custom)
    build_objective = custom.objective or partial(_objective, images=images, custom=custom)
    objective = build_objective(student, config).to(built)
    if config.run.activation_checkpointing:
        enable_activation_checkpointing(student.encoder.backbone)
    target = getattr(objective, "target", None)  # an objective of the user's need not have one
    for network in (student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])):
        convert_sync_batch_norm(network, config.batch_norm_processes, where.type)
        if shared_out:
            shard_network(network, where, blockwise=config.batch_norm_scope != "joint")
    return TrainingParts(student.to(where), objective.to(where))


def whole_student(config: PretrainConfig, student: Student, device: torch.device) -> Student:
    """The student as one process has it; of one that is shared out, a copy on the first process. All are to ask.

    Raises:
        UserError: the device does not hold all of it.
    """
    if not config.run.fsdp:
        return student
    weights = full_state_dict(student.state_dict())
    if rank() > 0:
        return student
    copied = build_student(config, "cpu", starting_weights=False)
    copied.load_state_dict(weights)
    try:
        return copied.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device} does not hold the whole network beside its part: set run.snapshots=0 and no probe; what is trained is "
            "saved, and coterie report shows it where the network fits"
        ) from error


def _objective(
    student: Student, config: PretrainConfig, *, images: int, custom: CustomParts
) -> Objective | BatchObjective:
    roles = config.views.roles
    target = custom.target(student) if custom.target is not None else _target(config, student)
    if custom.groups is None and isinstance(config.groups, BatchGroupsConfig):
        assert not isinstance(config.assignment, CenteredConfig)  # refused by the rules of the settings
        gradient = config.groups.gradient
        return BatchObjective(
            config.assignment, roles, target=target, temperature=config.temperature, gradient=gradient
        )
    assert student.groups is not None
    assert not isinstance(config.assignment, Identity)  # refused likewise
    assert not isinstance(config.groups, BatchGroupsConfig) or custom.groups is not None
    memory = None
    if config.memory is not None:
        memory = Memory(
            config.memory.length,
            len(roles.grouped_views if config.memory.rows_from == "student" else roles.target_views),
            config.projector.width,
            batch_size=config.batch_size,
            start_epoch=config.memory.start_epoch,
        )
    return Objective(
        student.groups,
        custom.assignment or build_assignment(config.assignment, config.group_counts),
        roles,
        target=target,
        temperature=config.temperature,
        memory=memory,
        rows_from=config.memory.rows_from if config.memory is not None else "student",
        refresh=config.refresh,
        images=images,
        mean_entropy=config.mean_entropy,
        seed=config.seed,
    )


def _target(config: PretrainConfig, student: Student) -> TargetNetwork:
    if isinstance(config.target, SameNetwork):
        return config.target
    own = student.groups if config.target.covers_groups else None
    network = target_copy(student.encoder)
    before = config.target.moves == "before"
    return MomentumTeacher(network, student.encoder, own, momentum=config.target.momentum, before=before)


def compile_parts(parts: TrainingParts, config: PretrainConfig, runtime: Runtime) -> str | None:
    """Have the training passes of student and teacher compiled, each tried at the run's own batch and sizes of views.

    Returns:
        None, or, where the compiler failed, why, in one line: then they run as they are written.
    """
    roles, sizes = config.views.roles, config.views.sizes
    images, device = config.batch_size // world_size(), runtime.device

    def blank(views: tuple[int, ...]) -> list[Tensor]:
        return [torch.zeros(images, config.views.channels, sizes[v], sizes[v], device=device) for v in views]

    tried = [(parts.student.encoder, blank(roles.student_views))]
    target = getattr(parts.objective, "target", None)
    if isinstance(target, MomentumTeacher) and isinstance(target.network, Encoder):
        tried.append((target.network, blank((*roles.target_views, *roles.bn_only_views))))
    return compile_passes(tried, runtime.autocast)


def out_of_memory(config: PretrainConfig, runtime: Runtime, error: BaseException) -> str:
    """One line for a step that the device had too little memory for: what the step was, what it held, what to lower.

    ``micro_batches`` are suggested, never taken by themselves: batch norms would see less of a batch.
    """
    crops = " + ".join(f"{each.count}x{each.size}" for each in config.views.crops)
    step = f"{config.batch_size // world_size()} images as {crops} pixels through {config.backbone.name}"
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    facts = [f"it wanted {wanted[1]} more"] if wanted else []
    device = runtime.device
    if device.type == "cuda":
        held, there = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        facts.append(f"held {held / 2**30:.1f} of {there / 2**30:.1f} GiB")
    details = f" ({', '.join(facts)})" if facts else ""
    half = f"--batch-size {max(2, config.batch_size // 2)}"
    also = ", --set run.precision=bfloat16" if runtime.autocast is None and has_bfloat16(device) else ""
    return (
        f"not enough memory for {step}{details}: use --set micro_batches={2 * config.micro_batches}, {half}, fewer or smaller "
        f"views.crops or a smaller --backbone{also}, and another --out"
    )
