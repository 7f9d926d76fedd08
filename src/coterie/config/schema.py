"""The settings of a run: one field per part, in the order in which data flow through the parts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coterie.config.options import Precision
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.loader import count_steps
from coterie.data.sources.columns import Columns
from coterie.errors import BadConfig, did_you_mean
from coterie.grouping.assignment import AssignmentConfig, Sinkhorn
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import GroupsConfig, LearnedGroupsConfig
from coterie.grouping.memory_queue import MemoryConfig, Refresh
from coterie.grouping.regularizers import RegularizerConfig
from coterie.grouping.teacher import SameNetwork, TargetConfig
from coterie.models.backbone import BackboneConfig
from coterie.models.encoder import BatchNormScope
from coterie.models.head import HeadConfig
from coterie.optim.optimizer import LarsConfig, OptimizerConfig
from coterie.optim.schedule import Schedule

AnyGroups = GroupsConfig | BatchGroupsConfig
AnyAssignment = AssignmentConfig | Identity

OF_EMBEDDINGS = ("knn", "linear", "linear_published", "clusters", "retrieval")
"""The probes that need only frozen embeddings with one label per image."""
OF_SETS = ("svm", "low_shot")
"""Probes on frozen embeddings, with any number of labels per image."""
PUBLISHED = ("linear_published", "linear_blocks", *OF_SETS)
"""Probes of frozen embeddings that follow a paper, which embeds in float32."""


def check_known(probes: Sequence[str], known: Sequence[str]) -> None:
    """Check names of probes.

    Raises:
        BadConfig: a name is unknown, or there is none.
    """
    if not probes:
        raise BadConfig(f"no probe is named: choose from {', '.join(known)}")
    unknown = sorted(set(probes) - set(known))
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise BadConfig(f"unknown probe {', '.join(unknown)}: choose from {', '.join(known)}{near}")


@dataclass(frozen=True)
class ProbeConfig:
    """Probes on labeled images during training.

    Attributes:
        train: labeled sources that the probes learn from.
        test: labeled sources that they are tested on; empty: a random fifth of ``train``, on which they are not trained.
        every_epochs: epochs between two probes; there is always one at the end.
        probes: names from ``knn``, ``linear``, ``linear_published``, ``clusters`` and ``retrieval``.
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
    """How a run is computed, saved and evaluated on the way; apart from early stops, not what is learned.

    Attributes:
        device: ``auto`` (CUDA if there is a usable GPU), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bfloat16 where the device, CPU or GPU, has it in hardware, else float32), ``float32`` or
            ``bfloat16``.
        compile: whether torch's compiler compiles the training passes: ``always``, ``never``, or ``auto``: on CUDA, in runs
            that are long enough to pay for it. A compiled run does not equal an eager one bit for bit; its files are the same.
        activation_checkpointing: keep only the input of each block of the network and recompute the rest in the backward
            pass: one more forward pass, less memory, the same result.
        fsdp: each process keeps a shard of the networks' weights, gradients and optimizer state (FSDP2); for networks that do
            not fit on one GPU.
        workers: processes that load images; -1: as many as there are cores to spare, at most 16.
        threads: CPU threads of the main process; 0: the fastest number by a rehearsal of the run (several processes and runs
            on a GPU: torch's choice). A run keeps its number, so that a resume is bitwise, unless another one is set.
        log_steps: steps between two lines of the log.
        save_steps: steps between two checkpoints; 0: only by the clock and at the end.
        save_minutes: minutes between two checkpoints.
        on_collapse: ``warn`` or ``stop``.
        snapshots: how many times, evenly over the run, label-free metrics are measured and the weights kept; 0: never.
        early_stop: stop early when the label-free metrics plateau.
        minutes: budget of the whole run, its figures and report included (``--time``): its length is laid out again when a step
            turns out slower or faster. The time that a stopped run lies still does not count. None: no budget.
    """

    device: str = "auto"
    precision: Precision = "auto"
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
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise BadConfig(f"run.minutes is {self.minutes:g}: give minutes above 0, or none (no budget)")
        if self.fsdp and self.compile == "always":
            raise BadConfig(
                "run.compile is 'always', but with run.fsdp=true networks are not compiled: set it to 'auto'"
            )
        if self.threads < 0:
            raise BadConfig(f"run.threads is {self.threads}: give 1 or more, or 0 (the fastest by measuring)")
        if self.log_steps < 1:
            raise BadConfig(f"run.log_steps is {self.log_steps}: it must be at least 1")
        if self.save_minutes <= 0:
            raise BadConfig(f"run.save_minutes is {self.save_minutes:g}: it must be above 0")
        if self.save_steps < 0:
            raise BadConfig(f"run.save_steps is {self.save_steps}: it cannot be negative (0: only by the clock)")
        if self.snapshots < 0:
            raise BadConfig(f"run.snapshots is {self.snapshots}: give 0 (none) or more")
        if self.early_stop and not self.snapshots:
            raise BadConfig("run.early_stop needs label-free metrics, but run.snapshots is 0: set it to 10 or so")


@dataclass(frozen=True)
class PretrainConfig:
    """All settings of a run; ``config.toml`` in its folder holds them, resolved.

    Attributes:
        method: the preset that the settings came from.
        data: folders, lists, globs, tables, tar shards.
        columns: where images and labels are in ``data`` and in the sources of ``probe``.
        views: crops and augmentation of each view, and the roles of the views.
        backbone: the network.
        batch_norm_scope: which views share the statistics of a batch norm: ``resolution``, ``view`` or ``joint``.
        batch_norm_processes: how many neighboring processes share the statistics of their batch norms; 0: all, so that the
            result does not depend on the number of processes. SwAV's release uses 8.
        micro_batches: into how many parts a process splits its share of a batch to save memory (gradient caching): each part
            goes through the network twice, the second time with gradient. Codes, groups and loss are those of the whole
            batch; batch norms see one part.
        projector: the head whose output is grouped.
        predictor: the head that predicts from the projector's output; None: the projector's output predicts.
        target: the network whose embeddings become targets.
        groups: the centers, and how they move.
        assignment: how scores become targets.
        temperature: tau, the temperature of the prediction.
        regularizer: what keeps embeddings or groups from collapsing, besides the assignment; None: nothing.
        memory: past embeddings, balanced together with the batch's or used by the refresh.
        refresh: how often, and for what, the memory is used as a whole: k-means, labels, resetting the teacher.
        optimizer: updates the weights.
        learning_rate: its schedule.
        clip_grad_norm: largest norm of the gradient; None: unlimited.
        epochs: passes over the images.
        images: stop after the last whole batch of this many images, even within an epoch; None: after ``epochs``.
        batch_size: images per step, over all processes.
        seed: seed for weights, data order and augmentation.
        probe: probes on labeled images during training.
        run: how the run is computed, saved and evaluated on the way.
        custom: parts handed in from Python in place of those in the settings, as ``part=class``.
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
    regularizer: RegularizerConfig | None = None
    memory: MemoryConfig | None = None
    refresh: Refresh | None = None
    optimizer: OptimizerConfig = field(default_factory=LarsConfig)
    clip_grad_norm: float | None = None
    seed: int = 0
    images: int | None = None
    probe: ProbeConfig | None = None
    run: RunConfig = field(default_factory=RunConfig)
    custom: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise BadConfig(f"epochs is {self.epochs}: it must be at least 1")
        if self.batch_size < 2:
            raise BadConfig(f"batch_size is {self.batch_size}: grouping needs at least 2 images per batch")
        if self.images is not None and self.images < self.batch_size:
            raise BadConfig(f"images is {self.images}: give at least one batch of {self.batch_size}, or none")
        if not 0 <= self.seed < 2**62:
            raise BadConfig(f"seed is {self.seed}: give a number from 0 to {2**62 - 1}")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise BadConfig(f"clip_grad_norm is {self.clip_grad_norm:g}: it must be above 0 (or none)")
        if self.temperature <= 0:
            raise BadConfig(f"temperature is {self.temperature:g}: it must be above 0 (SwAV uses 0.1)")
        if self.batch_norm_processes < 0:
            raise BadConfig(
                f"batch_norm_processes is {self.batch_norm_processes}: give 0 (all), 1 (each by itself) or more"
            )
        if not 1 <= self.micro_batches <= self.batch_size // 2:
            raise BadConfig(
                f"micro_batches is {self.micro_batches}: give 1 or more, with at least 2 images each (batch_size is "
                f"{self.batch_size})"
            )

    @property
    def keeps_labels(self) -> bool:
        """Whether a refresh keeps a label for each image, which its views predict until the next refresh."""
        return self.refresh is not None and self.refresh.labels

    @property
    def assigned_rows(self) -> int:
        """Rows per batch that each head assigns: one per image where labels are kept, else one per image and target view."""
        return self.batch_size * (1 if self.keeps_labels else len(self.views.roles.target_views))

    def total_steps(self, images: int) -> int:
        """The steps of a run on so many images."""
        return count_steps(images, self.batch_size, self.epochs, self.images)

    @property
    def group_counts(self) -> tuple[int, ...]:
        """The number of groups of each head within one batch."""
        if not isinstance(self.groups, BatchGroupsConfig):
            return self.groups.counts
        roles = self.views.roles
        if isinstance(self.assignment, Identity):  # every view of every image
            return (len(roles.student_views) * self.batch_size,)
        return (self.batch_size,) * len(roles.target_views)
