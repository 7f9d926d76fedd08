"""Builds the objects of a run from its settings: student, objective, loader."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from coterie.config.hardware import Runtime, choose_engine, has_bfloat16
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.distributed.fsdp import check_can_shard, full_state_dict, shard_network
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig, UserError
from coterie.grouping.assignment import CenteredConfig, build_assignment
from coterie.grouping.batch_objective import BatchGroupsConfig, BatchObjective, Identity
from coterie.grouping.groups import Groups, build_groups
from coterie.grouping.memory_queue import Memory
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork, TargetNetwork
from coterie.models.activation_checkpointing import enable_activation_checkpointing
from coterie.models.backbone import build_backbone, feature_width
from coterie.models.compile import compile_passes
from coterie.models.encoder import Encoder, target_copy
from coterie.models.head import Head
from coterie.models.image_sizes import check_view_sizes
from coterie.models.layers import batch_norms, freeze, layer_numbers
from coterie.models.own_backbone import OwnBackbone, wrap_backbone
from coterie.models.sync_batch_norm import convert_sync_batch_norm
from coterie.training.custom_parts import CustomParts, TrainedObjective, check_is_module, check_methods, own_copy
from coterie.training.start import start_student, start_teacher
from coterie.training.student import Student


@dataclass(frozen=True)
class TrainingParts:
    """The student and its objective.

    Attributes:
        student: holds all parameters that the optimizer updates.
        objective: a module that turns the student's embeddings into a loss.
        start: one line: what they took over from ``backbone.weights``; None: nothing.
    """

    student: Student
    objective: TrainedObjective
    start: str | None = None


def build_loader(config: PretrainConfig, source: ImageSource, runtime: Runtime) -> Loader:
    """Build the loader of a run.

    Raises:
        BadConfig: the batch or the groups are more than the images.
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
    custom: CustomParts | None = None,
) -> Student:
    """Build a student of random weights from ``config.seed`` alone; the global random state stays as it is.

    Args:
        config: settings of the run.
        device: device of the student.
        custom: backbone and groups in place of those of the settings.
    """
    sizes = {*config.views.sizes, config.views.center_crop_size}
    network = replace(config.backbone, weights=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        own = None if custom is None else custom.backbone
        backbone = (
            build_backbone(network, max(sizes)) if own is None else wrap_backbone(own, config.backbone, max(sizes))
        )
        check_view_sizes(backbone, config.backbone, sizes)
        frozen = freeze(backbone, config.backbone.trainable, config.backbone.name)
        projector = Head(feature_width(backbone), config.projector)
        predictor = Head(config.projector.width, config.predictor) if config.predictor is not None else None
        encoder = Encoder(
            backbone,
            projector,
            predictor,
            batch_norm_scope=config.batch_norm_scope,
            micro_batches=config.micro_batches,
            frozen=(*frozen, *(batch_norms(backbone) if config.backbone.frozen_statistics else ())),
        )
        groups: Groups | None = None if custom is None else own_copy(custom.groups)
        if groups is None and not isinstance(config.groups, BatchGroupsConfig):
            groups = build_groups(config.groups, config.projector.width)
    student = Student(encoder, groups).to(device)
    if isinstance(backbone, OwnBackbone) and not backbone.channels_last:
        return student
    return student.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU


def build_parts(
    config: PretrainConfig,
    device: torch.device | str = "cpu",
    *,
    images: int = 0,
    starting_weights: bool = True,
    custom: CustomParts | None = None,
) -> TrainingParts:
    """Build a new student and its objective.

    Args:
        config: settings of the run.
        device: device of both.
        images: number of images in the source, for methods that keep a label for each.
        starting_weights: take over what fits of ``backbone.weights``; not needed where a checkpoint will be loaded.
        custom: parts in place of those of the settings.

    Raises:
        UserError: a custom part does not fit the settings, or lacks a method of its protocol.
    """
    custom = custom or CustomParts()
    torch.backends.cudnn.benchmark = True  # few sizes, many times
    final_device, sharded = torch.device(device), config.run.fsdp
    if sharded:
        check_can_shard()
    build_device = torch.device("cpu") if sharded else final_device  # a sharded network need not fit on one device
    student = build_student(config, build_device, custom=custom)
    start = start_student(config, student) if starting_weights and config.backbone.weights is not None else None
    if custom.objective is not None:
        objective = custom.objective(student, config)
        check_is_module("objective", objective)
        check_methods("objective", objective, TrainedObjective)
    else:
        objective = _objective(student, config, images=images, custom=custom)
    objective = objective.to(build_device)
    if config.run.activation_checkpointing:
        enable_activation_checkpointing(student.encoder.backbone)
    target = getattr(objective, "target", None)  # a custom objective need not have one
    if start is not None:
        start_teacher(config, target, start)
    for network in (student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])):
        convert_sync_batch_norm(network, config.batch_norm_processes, final_device.type)
        if sharded:
            shard_network(network, final_device, blockwise=config.batch_norm_scope != "joint")
    line = None if start is None else start.line
    return TrainingParts(student.to(final_device), objective.to(final_device), line)


def start_line(config: PretrainConfig, images: int) -> str | None:
    """What a new run would take over from ``backbone.weights``, in one line, without keeping it; None: nothing.

    Args:
        config: settings of the run.
        images: number of images in the source.

    Raises:
        UserError: there is no such MODEL, or it is of another network.
    """
    if config.backbone.weights is None:
        return None
    whole = replace(config, run=replace(config.run, fsdp=False))
    return build_parts(whole, images=images).start


def build_optimizer(config: PretrainConfig, student: Student, trained: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a student, with a learning rate per layer where ``optimizer.layer_decay`` asks for it.

    The rate of the heads and groups is that of the schedule; that of the backbone's last layer is ``layer_decay`` times that,
    and so on down to the stem.

    Args:
        config: settings of the run.
        student: the student.
        trained: what the optimizer updates: the student, or its :class:`~coterie.distributed.fsdp.ShardedStudent`.

    Raises:
        BadConfig: timm does not order the layers of this backbone.
    """
    decay = config.optimizer.layer_decay
    if decay == 1:
        return config.optimizer.build(trained)
    numbers = layer_numbers(student.encoder.backbone)
    above = 1 + max(numbers.values())
    scales = {f"encoder.backbone.{name}": decay ** (above - number) for name, number in numbers.items()}
    return config.optimizer.build(trained, scales)


def group_counts(config: PretrainConfig, student: Student, custom: CustomParts | None = None) -> tuple[int, ...]:
    """The number of groups of each head, which custom groups and assignments may change."""
    if student.groups is not None:
        return tuple(len(centers) for centers in student.groups.centers())
    if custom is not None and custom.assignment is not None:  # the images of the batch, for each target view
        return (config.batch_size,) * len(config.views.roles.target_views)
    return config.group_counts


def whole_student(
    config: PretrainConfig, student: Student, device: torch.device, custom: CustomParts | None = None
) -> Student:
    """The student itself or, if it is sharded, a complete copy on the first process; a collective.

    Args:
        config: settings of the run.
        student: the trained student.
        device: device of the copy.
        custom: backbone and groups with which the student was built.

    Raises:
        UserError: the device has too little memory for the copy.
    """
    if not config.run.fsdp:
        return student
    weights = full_state_dict(student.state_dict())
    if rank() > 0:
        return student
    copied = build_student(config, "cpu", custom=custom)
    copied.load_state_dict(weights)
    try:
        return copied.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device} has too little memory for the complete network beside its shard: set run.snapshots=0 and no probe; the "
            "run is saved, and coterie report evaluates it where the network fits"
        ) from error


def _objective(
    student: Student, config: PretrainConfig, *, images: int, custom: CustomParts
) -> Objective | BatchObjective:
    roles, assignment = config.views.roles, own_copy(custom.assignment)
    target = _target(config, student)
    if custom.target is not None:
        target = custom.target(student)
        check_methods("target", target, TargetNetwork)
    if student.groups is None:
        assert isinstance(config.groups, BatchGroupsConfig)
        assert not isinstance(config.assignment, CenteredConfig)  # refused by the rules of the settings
        return BatchObjective(
            assignment or config.assignment,
            roles,
            target=target,
            temperature=config.temperature,
            gradient=config.groups.gradient,
            regularizer=config.regularizer,
        )
    if assignment is None:
        if isinstance(config.assignment, Identity):
            raise BadConfig(
                "assignment.kind is 'identity' (each image its own group), which does not fit CustomParts.groups: set another "
                "kind, or give CustomParts.assignment"
            )
        assignment = build_assignment(config.assignment, group_counts(config, student))
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
        assignment,
        roles,
        target=target,
        temperature=config.temperature,
        memory=memory,
        rows_from=config.memory.rows_from if config.memory is not None else "student",
        refresh=config.refresh,
        images=images,
        regularizer=config.regularizer,
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
    """Compile the training passes of student and teacher, and try each at the batch and view sizes of the run.

    Returns:
        None, or why the compiler failed, in one line; the passes then run eagerly.
    """
    roles, sizes = config.views.roles, config.views.sizes
    images, device = config.batch_size // world_size(), runtime.device

    def blank(views: tuple[int, ...]) -> list[Tensor]:
        return [torch.zeros(images, config.views.channels, sizes[v], sizes[v], device=device) for v in views]

    passes = [(parts.student.encoder, blank(roles.student_views))]
    target = getattr(parts.objective, "target", None)
    if isinstance(target, MomentumTeacher) and isinstance(target.network, Encoder):
        passes.append((target.network, blank((*roles.target_views, *roles.bn_only_views))))
    return compile_passes(passes, runtime.autocast)


def out_of_memory(config: PretrainConfig, runtime: Runtime, error: BaseException) -> str:
    """Describe, in one line, a step that ran out of memory: its size, the memory in use, and what to lower.

    ``micro_batches`` are suggested but never set automatically, because batch norms would see fewer images.
    """
    crops = " + ".join(f"{each.count}x{each.size}" for each in config.views.crops)
    step = f"{config.batch_size // world_size()} images as {crops} pixels through {config.backbone.name}"
    requested = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    facts = [f"{requested[1]} more were requested"] if requested else []
    device = runtime.device
    if device.type == "cuda":
        used, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        facts.append(f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB were in use")
    details = f" ({', '.join(facts)})" if facts else ""
    half = f"--batch-size {max(2, config.batch_size // 2)}"
    also = ", --set run.precision=bfloat16" if runtime.autocast is None and has_bfloat16(device) else ""
    return (
        f"not enough memory for {step}{details}: use --set micro_batches={2 * config.micro_batches}, {half}, fewer or smaller "
        f"views.crops or a smaller --backbone{also}, and another --out"
    )
