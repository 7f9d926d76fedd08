"""The settings of a run: one field a part, in the order in which data flow through them; and the rules between the parts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coterie.data.augmentation.view_plan import ViewPlan
from coterie.errors import BadConfig
from coterie.grouping.assignment import AssignmentConfig, Sinkhorn
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import GroupsConfig, LearnedGroupsConfig
from coterie.grouping.memory_queue import MemoryConfig, Refresh
from coterie.grouping.teacher import SameNetwork, TargetConfig
from coterie.models.backbone import BackboneConfig
from coterie.models.encoder import BatchNormScope
from coterie.models.head import HeadConfig
from coterie.optim.optimizer import LarsConfig, OptimizerConfig
from coterie.optim.schedule import Schedule

AnyGroups = GroupsConfig | BatchGroupsConfig
AnyAssignment = AssignmentConfig | Identity

OF_EMBEDDINGS = ("knn", "linear", "linear_published", "clusters", "retrieval")
"""Those that ask frozen embeddings with one label an image."""


def check_known(probes: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that are no probes, or none at all."""
    unknown = sorted(set(probes) - set(known))
    if unknown or not probes:
        raise BadConfig(f"{', '.join(unknown) or 'nothing'} is no probe: choose from {', '.join(known)}")


@dataclass(frozen=True)
class ProbeConfig:
    """Probes on labeled images while the run goes on.

    Attributes:
        train: labeled sources whose embeddings vote.
        test: labeled sources whose labels are guessed; empty: every fifth image of ``train``.
        every_epochs: how often, and at the end.
        probes: of ``knn``, ``linear``, ``linear_published``, ``clusters`` and ``retrieval``.
    """

    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    every_epochs: int = 5
    probes: tuple[str, ...] = ("knn",)

    def __post_init__(self) -> None:
        check_known(self.probes, OF_EMBEDDINGS)
        if self.every_epochs < 1:
            raise BadConfig(f"probe.every_epochs is {self.every_epochs}: it must be at least 1")


@dataclass(frozen=True)
class RunConfig:
    """What changes the speed of a run and the trace it leaves, but not what is learned.

    Attributes:
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bfloat16 where the device, CPU or GPU, has it, else float32), ``float32`` or ``bfloat16``.
        compile: the backbone's training passes through torch's compiler: ``always``, ``never``, or ``auto``: on CUDA in a
            run that is long enough to pay for it. A compiled run is not bitwise the plain one; what is saved is the same.
        activation_checkpointing: remember only what goes into each block of the network, and compute the rest again on the way
            back: one forward pass more, less memory, the same result.
        fsdp: each process keeps a part of the networks' weights, gradients and optimizer state (FSDP2); for networks that one
            GPU does not hold.
        workers: processes that load images; -1: as many as there are cores to spare, at most 16.
        threads: of the main process on a CPU; 0: resolved at the start and kept on a resume, so that a resume is bitwise.
        log_steps: steps between two lines of the log.
        save_steps: steps between two checkpoints; 0: only by the clock and at the end.
        save_minutes: minutes between two checkpoints.
        on_collapse: ``warn`` or ``stop``.
        snapshots: how often, evenly over the run, figures without labels are taken and the weights are kept beside them.
        early_stop: end the run when the label-free metrics plateau.
    """

    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "never", "always"] = "auto"
    activation_checkpointing: bool = False
    fsdp: bool = False
    workers: int = -1
    threads: int = 0
    log_steps: int = 10
    save_steps: int = 0
    save_minutes: float = 10.0
    on_collapse: Literal["warn", "stop"] = "warn"
    snapshots: int = 10
    early_stop: bool = False

    def __post_init__(self) -> None:
        if self.fsdp and self.compile == "always":
            raise BadConfig(
                "run.compile is 'always', but with run.fsdp=true networks run as they are written: set it to 'auto'"
            )
        if self.threads < 0:
            raise BadConfig(f"run.threads is {self.threads}: give 1 or more, or 0 to have it chosen")
        if self.log_steps < 1:
            raise BadConfig(f"run.log_steps is {self.log_steps}: it must be at least 1")
        if self.save_minutes <= 0 or self.save_steps < 0:
            raise BadConfig("run.save_minutes must be above 0 and run.save_steps not negative")
        if self.snapshots < 0:
            raise BadConfig(f"run.snapshots is {self.snapshots}: give 0 (none) or more")
        if self.early_stop and not self.snapshots:
            raise BadConfig("run.early_stop needs label-free metrics, but run.snapshots is 0: set it to 10 or so")


@dataclass(frozen=True)
class PretrainConfig:
    """Everything about a run. ``config.toml`` in its folder is this, resolved.

    Attributes:
        method: the preset that it came from.
        data: folders, lists, globs, parquet files, tar shards.
        views: what is seen of an image, and which view plays which part.
        backbone: the network that is wanted.
        batch_norm_scope: what a batch norm sees together: ``resolution``, ``view`` or ``joint``.
        batch_norm_processes: of several processes, so many neighbors share the statistics of their batch norms; 0: all, so
            that a run is the same on any number. SwAV's release shares them among 8.
        micro_batches: a process sends its share of a batch through the network in so many parts, one after the other, and a
            second time on the way back, where memory is short. Codes, groups and loss are those of the whole batch; batch
            norms see a part.
        projector: the head whose rows are grouped.
        predictor: the head that predicts from the projector's rows; None: they predict themselves.
        target: whose embeddings decide.
        groups: how the centers move.
        assignment: how scores become targets.
        temperature: tau, of the prediction.
        mean_entropy: weight of the regularizer that spreads the mean prediction over all groups (MSN); 0: none.
        memory: past rows: balanced beside the batch's, or looked over by the refresh.
        refresh: when the memory is looked over, and what for.
        optimizer: what moves the weights.
        learning_rate: over the run.
        clip_grad_norm: largest norm of the gradient.
        epochs: passes over the images.
        images: to see in all: a run ends with their last whole batch, in the middle of an epoch if need be; none: ``epochs``
            alone says.
        batch_size: images a step, of all processes together.
        seed: of weights, order and views.
        probe: probes with labels while the run trains.
        run: what changes the speed but not the result.
        custom: parts that were handed in from Python in place of those of these settings, as ``part=class``.
    """

    method: str
    data: tuple[str, ...]
    views: ViewPlan
    backbone: BackboneConfig
    learning_rate: Schedule
    epochs: int
    batch_size: int
    batch_norm_scope: BatchNormScope = "resolution"
    batch_norm_processes: int = 0
    micro_batches: int = 1
    projector: HeadConfig = field(default_factory=HeadConfig)
    predictor: HeadConfig | None = None
    target: TargetConfig = field(default_factory=SameNetwork)
    groups: AnyGroups = field(default_factory=LearnedGroupsConfig)
    assignment: AnyAssignment = field(default_factory=Sinkhorn)
    temperature: float = 0.1
    mean_entropy: float = 0.0
    memory: MemoryConfig | None = None
    refresh: Refresh | None = None
    optimizer: OptimizerConfig = field(default_factory=LarsConfig)
    clip_grad_norm: float | None = None
    seed: int = 0
    images: int | None = None
    probe: ProbeConfig | None = None
    run: RunConfig = field(default_factory=RunConfig)
    custom: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise BadConfig(f"epochs is {self.epochs}: it must be at least 1")
        if self.batch_size < 2:
            raise BadConfig(f"batch_size is {self.batch_size}: grouping needs at least 2 images a batch")
        if self.images is not None and self.images < self.batch_size:
            raise BadConfig(f"images is {self.images}: give at least a batch of {self.batch_size}, or none")
        if not 0 <= self.seed < 2**62:
            raise BadConfig(f"seed is {self.seed}: give a number from 0 to {2**62 - 1}")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise BadConfig(f"clip_grad_norm is {self.clip_grad_norm:g}: it must be above 0 (or none)")
        if self.temperature <= 0:
            raise BadConfig(f"temperature is {self.temperature:g}: it must be above 0 (SwAV uses 0.1)")
        if self.batch_norm_processes < 0:
            raise BadConfig(
                f"batch_norm_processes is {self.batch_norm_processes}: give 0 (all), 1 (each alone) or more"
            )
        if not 1 <= self.micro_batches <= self.batch_size // 2:
            raise BadConfig(
                f"micro_batches is {self.micro_batches}: give 1 or more, of at least 2 images each (batch_size is "
                f"{self.batch_size})"
            )
        if self.mean_entropy < 0:
            raise BadConfig(f"mean_entropy is {self.mean_entropy:g}: a weight cannot be negative (0: none)")

    @property
    def keeps_labels(self) -> bool:
        """Whether a refresh keeps a label for each image, which its views predict until the next."""
        return self.refresh is not None and self.refresh.labels

    @property
    def assigned_rows(self) -> int:
        """How many rows of a batch a head assigns to groups: one an image where labels are kept, else one a target view."""
        return self.batch_size * (1 if self.keeps_labels else len(self.views.roles.target_views))

    @property
    def group_counts(self) -> tuple[int, ...]:
        """How many groups each head tells apart in a batch."""
        if not isinstance(self.groups, BatchGroupsConfig):
            return self.groups.counts
        roles = self.views.roles
        if isinstance(self.assignment, Identity):  # every view of every image
            return (len(roles.student_views) * self.batch_size,)
        return (self.batch_size,) * len(roles.target_views)
