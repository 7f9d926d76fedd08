"""From settings to objects: the only place that reads a whole config and builds from it."""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from coterie.config import PretrainConfig
from coterie.data.loader import Loader
from coterie.data.source import ImageSource
from coterie.data.views import Engine
from coterie.distributed import local_device, rank, world_size
from coterie.embedding.embed import Eye
from coterie.errors import BadConfig, BadRun, UserError
from coterie.grouping.assignment import CenteredConfig, build_assignment
from coterie.grouping.batch import BatchGroupsConfig, BatchObjective, Identity
from coterie.grouping.groups import build_groups
from coterie.grouping.memory import Memory
from coterie.grouping.objective import Objective
from coterie.grouping.target import MomentumTeacher, SameNetwork, TargetNetwork
from coterie.models.backbone import build_backbone, check_view_sizes, feature_width
from coterie.models.compiled import compile_passes
from coterie.models.encoder import Encoder, target_copy
from coterie.models.head import Head
from coterie.models.recompute import checkpoint_activations
from coterie.models.shared_norm import share_statistics
from coterie.ops.loss import scores
from coterie.ops.neighbours import chunked
from coterie.settings import from_dict, read_run_toml
from coterie.sharding import check_can_shard, gathered_state, shard
from coterie.training import checkpoint
from coterie.training.student import Student

STEPS_WORTH_COMPILING = 3000
"""In a shorter run on a GPU the compiler is not asked: it would take about as long as it saves."""


@dataclass(frozen=True)
class Parts:
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
        world=world_size(),
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
    sizes = {*config.views.sizes, config.views.whole_size}
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


def assemble(
    config: PretrainConfig,
    device: torch.device | str = "cpu",
    *,
    images: int = 0,
    starting_weights: bool = True,
) -> Parts:
    """Student and objective, as new; ``images`` is how many the source has, for the labels that are kept of each."""
    torch.backends.cudnn.benchmark = True  # few sizes, many times
    where, shared_out = torch.device(device), config.run.shard
    if shared_out:
        check_can_shard()
    built = torch.device("cpu") if shared_out else where  # what no device holds is never there as a whole
    student = build_student(config, built, starting_weights=starting_weights)
    objective = _objective(config, student, images).to(built)
    if config.run.checkpoint_activations:
        checkpoint_activations(student.encoder.backbone)
    target = objective.target
    for network in (student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])):
        share_statistics(network, config.batch_norm_processes, where.type)
        if shared_out:
            shard(network, where, blockwise=config.batch_norm_scope != "joint")
    return Parts(student.to(where), objective.to(where))


def whole_student(config: PretrainConfig, student: Student, device: torch.device) -> Student:
    """The student as one process has it; of one that is shared out, a copy on the first process. All are to ask.

    Raises:
        UserError: the device does not hold all of it.
    """
    if not config.run.shard:
        return student
    weights = gathered_state(student.state_dict())
    if rank() > 0:
        return student
    copied = build_student(config, "cpu", starting_weights=False)
    copied.load_state_dict(weights)
    try:
        return copied.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{device} does not hold the whole network beside its part: set run.looks=0 and no probe; what is trained is "
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
            len(roles.grouped_views if config.memory.of == "student" else roles.target_views),
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
        memory_of=config.memory.of if config.memory is not None else "student",
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


@dataclass(frozen=True)
class Saved:
    """What a run's folder holds of it.

    Attributes:
        config: its settings.
        student: as the last whole checkpoint has it, in evaluation mode.
        images: how many the run sees.
        remarks: a line for each damaged checkpoint that was passed over.
    """

    config: PretrainConfig
    student: Student
    images: int
    remarks: tuple[str, ...]


def load_saved(run: str | Path, device: torch.device | str = "cpu") -> Saved:
    """What the folder of a run, finished or not, holds of it.

    Raises:
        BadRun: there is no checkpoint, or it does not fit.
    """
    config = from_dict(read_run_toml(run))
    _, state, passed_over = checkpoint.load(Path(run) / "checkpoint")
    if state is None:
        raise BadRun(f"{run} has no checkpoint: it is no run's folder, or nothing is saved yet")
    student = build_student(config, device, starting_weights=False)
    with checkpoint.taking_over(Path(run) / "checkpoint"):
        student.load_state_dict(state["student"])
        images = int(state["extra"]["images"])
    return Saved(config, student.eval(), images, tuple(passed_over))


def grouped(student: Student, temperature: float) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """From images to embedding ``[B, F]`` of the backbone, group ``[B]`` of the first head and its probability ``[B]``.

    The group is the one whose center is nearest to the projected image, its probability that of
    ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups.
    """

    def look(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = student.encoder.backbone(images)
        if student.groups is None:  # the batch was the groups: nothing lasts
            return features, torch.full((len(images),), -1), torch.zeros(len(images))
        logits = scores(student.encoder.project(features), student.groups.centers()[0]) / temperature
        probability, group = logits.softmax(dim=1).max(dim=1)
        return features, group, probability

    return look


@torch.inference_mode()
def nearest_groups(student: Student, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """The group ``[N]`` of the first head and its score ``[N]`` for features ``[N, F]`` that were made before, on the CPU.

    None where the batch was the groups. A bounded number of scores is held at a time.
    """
    if student.groups is None:
        return None
    centers, training = student.groups.centers()[0], student.training
    student.eval()
    found = [
        scores(student.encoder.project(part.to(centers.device)), centers).max(dim=1)
        for part in chunked(rows, max(len(centers), rows.shape[1]))
    ]
    student.train(training)
    return torch.cat([each.indices.cpu() for each in found]), torch.cat([each.values.cpu() for each in found])


def eye(config: PretrainConfig) -> Eye:
    """How whole images are brought to the trained network."""
    assert config.views.mean is not None
    assert config.views.std is not None
    return Eye(config.views.whole_size, config.views.channels, config.views.mean, config.views.std)


def choose_device(name: str) -> torch.device:
    """The device that is meant; ``auto`` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # says on standard error why a GPU is left alone
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise BadConfig(f"run.device is {name!r}: write auto, cpu, cuda or cuda:0")
    device = torch.device(name)
    if kind == "cuda" and (refusal := _refusal(local_device(device))):
        raise UserError(f"run.device is {name}, but torch says: {refusal}; use --set run.device=cpu")
    return device


def _refusal(device: torch.device) -> str | None:
    """What torch says when it cannot work on a GPU: there is none, its driver does not fit, it is older than torch knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same again, in more lines
        try:
            torch.ones((), device=device).add_(1).item()
        except (RuntimeError, AssertionError) as error:
            return str(error).partition("\n")[0].partition(". ")[0].rstrip(".;: ")
    return None


def choose_engine(engine: Engine, device: torch.device) -> tuple[Literal["cpu", "device"], str]:
    """Who does the colours of the views, and why."""
    if engine != "auto":
        return engine, "set by you"
    if device.type == "cuda":
        return "device", "a GPU does the colours of a whole batch at once, and leaves the workers to decode and crop"
    return "cpu", "a processor does the colours view by view, and only those that were drawn"


def choose_workers(number: int) -> int:
    """How many processes load images; -1: as many as there are cores to spare for this one, from 1 to 16."""
    if number < -1:
        raise BadConfig(f"workers is {number}: give 0 (none), more, or -1 (as many as there are cores to spare)")
    if number >= 0:
        return number
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, of this machine
    return max(1, min(16, share - 1))


def choose_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or where it is automatic and the device has it in hardware."""
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device)) else None


def why_autocast(precision: str, device: torch.device) -> str:
    """Why the precision is what :func:`choose_autocast` says."""
    if precision != "auto":
        return "set by you"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"
    if _has_bfloat16(device):
        return f"bfloat16, which {name} has"
    return f"float32: {name} has no bfloat16, and float16 would want its losses scaled"


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return can.get("avx512_bf16", False) or can.get("amx_bf16", False)


def choose_compile(
    wish: Literal["auto", "never", "always"], device: torch.device, steps: int, recomputed: bool = False
) -> tuple[bool, str]:
    """Whether the training passes are compiled in a run of so many steps, and why."""
    if wish != "auto":
        return wish == "always", "set by you"
    if device.type != "cuda":
        return False, "on a processor it gained nothing, and a resumed run would not be bitwise the whole one"
    if recomputed:
        return False, "what is computed a second time on the way back is run as it is written"
    if steps < STEPS_WORTH_COMPILING:
        return False, f"the compiler takes a minute or more, and {steps} steps are too few to win it back"
    return True, f"the compiler's minute or two are won back over {steps} steps"


def compile_parts(parts: Parts, config: PretrainConfig, device: torch.device) -> str | None:
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
        tried.append((target.network, blank((*roles.target_views, *roles.companion_views))))
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
