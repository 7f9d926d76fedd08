"""From settings to objects: the only place that reads a whole config and builds from it."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coterie.config.hardware import _has_bfloat16, choose_autocast, choose_engine, choose_workers
from coterie.config.schema import PretrainConfig
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.distributed.fsdp import check_can_shard, full_state_dict, shard_network
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig, UserError
from coterie.grouping.assignment import CenteredConfig, build_assignment
from coterie.grouping.batch_objective import BatchGroupsConfig, BatchObjective, Identity
from coterie.grouping.groups import build_groups
from coterie.grouping.memory_queue import Memory
from coterie.grouping.objective import Objective
from coterie.grouping.teacher import MomentumTeacher, SameNetwork, TargetNetwork
from coterie.models.activation_checkpointing import checkpoint_activations
from coterie.models.backbone import build_backbone, check_view_sizes, feature_width
from coterie.models.compile import compile_passes
from coterie.models.encoder import Encoder, target_copy
from coterie.models.head import Head
from coterie.models.sync_batch_norm import share_statistics
from coterie.training.student import Student


@dataclass(frozen=True)
class TrainingParts:
    """What is trained and what trains it."""

    student: Student
    objective: Objective | BatchObjective


def build_loader(config: PretrainConfig, source: ImageSource, device: torch.device | str = "cpu") -> Loader:
    """The batches of a run; refuses what the images cannot serve: a batch or groups that are more than they are."""
    loader = Loader(
        source,
        config.views,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        workers=choose_workers(config.run.workers),
        device=device,
        engine=choose_engine(config.views.engine, torch.device(device))[0],
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
    config: PretrainConfig, device: torch.device | str = "cpu", *, starting_weights: bool = True
) -> Student:
    """The student, as new, from ``config.seed`` alone; the global random state is left as it was.

    ``starting_weights`` off leaves the file of ``backbone.weights`` alone: a checkpoint will be loaded, and need not have it.
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
        groups = None
        if not isinstance(config.groups, BatchGroupsConfig):
            groups = build_groups(config.groups, config.projector.width)
    student = Student(encoder, groups).to(device)
    return student.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU


def build_parts(
    config: PretrainConfig,
    device: torch.device | str = "cpu",
    *,
    images: int = 0,
    starting_weights: bool = True,
) -> TrainingParts:
    """Student and objective, as new; ``images`` is how many the source has, for the labels that are kept of each."""
    torch.backends.cudnn.benchmark = True  # few sizes, many times
    where, shared_out = torch.device(device), config.run.fsdp
    if shared_out:
        check_can_shard()
    built = torch.device("cpu") if shared_out else where  # what no device holds is never there as a whole
    student = build_student(config, built, starting_weights=starting_weights)
    objective = _objective(config, student, images).to(built)
    if config.run.activation_checkpointing:
        checkpoint_activations(student.encoder.backbone)
    target = objective.target
    for network in (student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])):
        share_statistics(network, config.batch_norm_processes, where.type)
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


def _objective(config: PretrainConfig, student: Student, images: int) -> Objective | BatchObjective:
    roles, target = config.views.roles, _target(config, student)
    if isinstance(config.groups, BatchGroupsConfig):
        assert not isinstance(config.assignment, CenteredConfig)  # refused by the rules of the settings
        gradient = config.groups.gradient
        return BatchObjective(
            config.assignment, roles, target=target, temperature=config.temperature, gradient=gradient
        )
    assert student.groups is not None
    assert not isinstance(config.assignment, Identity)  # refused likewise
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
        build_assignment(config.assignment, config.groups.counts),
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


def compile_parts(parts: TrainingParts, config: PretrainConfig, device: torch.device) -> str | None:
    """Have the training passes of student and teacher compiled, each tried at the run's own batch and sizes of views.

    Returns:
        None, or, where the compiler failed, why, in one line: then they run as they are written.
    """
    roles, sizes = config.views.roles, config.views.sizes
    images = config.batch_size // world_size()

    def blank(views: tuple[int, ...]) -> list[Tensor]:
        return [torch.zeros(images, config.views.channels, sizes[v], sizes[v], device=device) for v in views]

    tried = [(parts.student.encoder, blank(roles.student_views))]
    target = parts.objective.target
    if isinstance(target, MomentumTeacher) and isinstance(target.network, Encoder):
        tried.append((target.network, blank((*roles.target_views, *roles.bn_only_views))))
    return compile_passes(tried, choose_autocast(config.run.precision, device))


def out_of_memory(config: PretrainConfig, device: torch.device, error: BaseException) -> str:
    """One line for a step that the device had not enough memory for: what was asked of it, what it held, what to lower.

    Parts of a batch one after the other are not taken unasked: batch norms would see less of it.
    """
    crops = " + ".join(f"{each.count}x{each.size}" for each in config.views.crops)
    asked = f"{config.batch_size // world_size()} images as {crops} pixels through {config.backbone.name}"
    tried = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    facts = [f"it wanted {tried[1]} more"] if tried else []
    if device.type == "cuda":
        held, there = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        facts.append(f"had held {held / 2**30:.1f} of {there / 2**30:.1f} GiB")
    said = f" ({', '.join(facts)})" if facts else ""
    half = f"--batch-size {max(2, config.batch_size // 2)}"
    wide = choose_autocast(config.run.precision, device) is None and _has_bfloat16(device)
    also = ", --set run.precision=bfloat16" if wide else ""
    return (
        f"not enough memory for {asked}{said}: use --set micro_batches={2 * config.micro_batches}, {half}, fewer or smaller "
        f"views.crops or a smaller --backbone{also}, and another --out"
    )
