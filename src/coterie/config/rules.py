"""Rules between the parts of a config: parts that cannot be combined are refused, with what to set instead."""

from coterie.config.schema import PretrainConfig
from coterie.errors import BadConfig
from coterie.grouping.assignment import AssignmentConfig, CenteredConfig, Nearest, Sinkhorn, Softmax
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import GroupsConfig, LearnedGroupsConfig
from coterie.grouping.regularizers import MeanEntropy
from coterie.grouping.teacher import MomentumTeacherConfig, SameNetwork

FEW_ROWS = 1 / 8
"""Rows per group for a balanced assignment below which a run is warned: each image is spread over many groups."""
FEWEST_ROWS = 1 / 25
"""Fewest rows per group: SwAV's authors balanced 4,096 rows over 100,000 groups (appendix C), and nobody fewer."""
FEWEST_ROUNDS = 50
"""Fewest rounds of Sinkhorn-Knopp for labels that are kept: after 3 rounds a third of SeLa's are wrong."""


def check_rules(config: PretrainConfig) -> None:
    """Check the parts against each other; called on complete settings, so that one setting can make up for another.

    Raises:
        BadConfig: names the path, the value, the rule and the fix.
    """
    if config.backbone.channels != config.views.channels:
        raise BadConfig(
            f"backbone.channels is {config.backbone.channels} but views.channels is {config.views.channels}: "
            "set both to the same number"
        )
    if config.predictor is not None and config.predictor.width != config.projector.width:
        raise BadConfig(
            f"predictor.width is {config.predictor.width} but projector.width is {config.projector.width}: both are "
            "compared with the same centers, so set them to the same number"
        )
    if config.run.activation_checkpointing and config.batch_norm_scope == "joint":
        raise BadConfig(
            "run.activation_checkpointing recomputes block by block, but batch_norm_scope='joint' needs all sizes of views "
            "in each block: set it to false, and micro_batches to 2 or more"
        )
    _check_roles(config)
    if isinstance(config.groups, BatchGroupsConfig) or isinstance(config.assignment, Identity):
        _check_batch_groups(config)
    else:
        _check_refresh(config, config.groups)
        _check_memory(config, config.groups, config.assignment)
        _check_spread(config, config.groups, config.assignment)
    _check_target(config)


def doubts(config: PretrainConfig) -> list[str]:
    """What is allowed and may not work, one line each, for settings that :func:`check_rules` accepts."""
    if (
        not isinstance(config.assignment, Sinkhorn)
        or isinstance(config.groups, BatchGroupsConfig)
        or config.keeps_labels
    ):
        return []
    rows, most = balanced_rows(config), max(config.groups.counts)
    if rows >= FEW_ROWS * most:
        return []
    return [
        f"groups.counts is {most}, {most / rows:.0f} groups for each of {rows} rows to balance: published for 100,000 groups "
        "at batch 4096, untried elsewhere; if the loss stays at ln K, use a larger batch, --set memory.length=N or fewer groups"
    ]


def balanced_rows(config: PretrainConfig) -> int:
    """The rows that an assignment of each batch balances: those of the batch, and of a queue."""
    return config.batch_size + (config.memory.length if config.memory is not None and config.refresh is None else 0)


def _check_roles(config: PretrainConfig) -> None:
    roles = config.views.roles
    needed = {*roles.grouped_views}
    if isinstance(config.target, SameNetwork) or isinstance(config.groups, BatchGroupsConfig):
        needed |= {*roles.target_views}
    missing = sorted(needed - {*roles.student_views})
    if missing:
        raise BadConfig(
            f"views.student_views leaves out view {missing[0]}, which is a target or grouped view: add it there"
        )
    if not config.keeps_labels and any({*roles.student_views} <= {view} for view in roles.target_views):
        raise BadConfig("views: the student needs at least 2 views, so that one can predict the code of another")
    if roles.bn_only_views and isinstance(config.target, SameNetwork):
        raise BadConfig("views.bn_only_views need a momentum teacher: set target.kind='teacher', or leave them empty")


def _check_target(config: PretrainConfig) -> None:
    if not isinstance(config.target, MomentumTeacherConfig):
        if config.refresh is not None and config.refresh.reset_teacher:
            raise BadConfig("refresh.reset_teacher is true, but there is no teacher: set target.kind='teacher'")
        return
    if config.target.covers_groups and not isinstance(config.groups, LearnedGroupsConfig):
        raise BadConfig(
            "target.covers_groups is true, but an average of centers that k-means replaces means nothing: set it to false, "
            "or groups.kind='learned'"
        )
    from_student = config.memory is not None and config.memory.rows_from == "student"
    if config.keeps_labels and from_student:
        raise BadConfig(
            "memory.rows_from is 'student', so the teacher would have no effect: set memory.rows_from='target'"
        )
    if config.refresh is None and from_student:
        raise BadConfig(
            "memory.rows_from is 'student', but the teacher's rows are balanced: set memory.rows_from='target'"
        )


def _check_batch_groups(config: PretrainConfig) -> None:
    if not isinstance(config.groups, BatchGroupsConfig):
        raise BadConfig("assignment.kind is 'identity' (each image its own group), which needs groups.kind='batch'")
    if config.memory is not None or config.refresh is not None:
        raise BadConfig("groups.kind is 'batch', whose groups last one step: use --set memory=none --set refresh=none")
    if isinstance(config.assignment, CenteredConfig):
        raise BadConfig(
            "assignment.kind is 'centered', a running mean of each group's scores, but groups.kind='batch' has new "
            "groups at each step: set assignment.kind='sinkhorn', 'nearest', 'softmax' or 'identity'"
        )
    if isinstance(config.regularizer, MeanEntropy):
        raise BadConfig(
            "regularizer.kind is 'mean_entropy', which needs lasting groups: with groups.kind='batch' use "
            "--set regularizer=none, or another kind"
        )


def _check_refresh(config: PretrainConfig, groups: GroupsConfig) -> None:
    if config.refresh is None:
        if not isinstance(groups, LearnedGroupsConfig):
            raise BadConfig(
                "these groups are refitted by a refresh of the memory: use --set refresh.every_epochs=1, or "
                "groups.kind='learned'"
            )
        return
    if config.memory is None:
        raise BadConfig("refresh needs a memory: use --set memory.length=N (the images of an epoch)")
    if config.memory.start_epoch > 0:
        raise BadConfig(
            f"memory.start_epoch is {config.memory.start_epoch}, but a refresh needs the memory from the start: set it to 0"
        )
    if isinstance(groups, LearnedGroupsConfig) and not (config.refresh.labels or config.refresh.reset_teacher):
        raise BadConfig("refresh has no effect on learned groups: set refresh.labels=true, or use --set refresh=none")
    rows, most = config.memory.length // config.batch_size * config.batch_size, max(groups.counts)
    if most > rows:
        raise BadConfig(
            f"groups.counts is {most}, more than the {rows} rows available to a refresh: set memory.length to "
            f"{-(-most // config.batch_size) * config.batch_size} or more, or use fewer groups"
        )


def _check_memory(config: PretrainConfig, groups: GroupsConfig, assignment: AssignmentConfig) -> None:
    roles, memory = config.views.roles, config.memory
    if memory is not None and memory.length < config.batch_size:
        raise BadConfig(
            f"memory.length is {memory.length}, less than the batch of {config.batch_size}: "
            f"set it to {config.batch_size} or more, or --set memory=none"
        )
    if memory is not None and config.refresh is None and not isinstance(assignment, Sinkhorn):
        raise BadConfig("memory is used only by a balanced assignment (sinkhorn) or a refresh: use --set memory=none")
    for_targets = config.refresh is None or (memory is not None and memory.rows_from == "target")
    if memory is not None and for_targets and len(roles.target_views) != len(roles.grouped_views):
        raise BadConfig(
            "views.target_views and views.grouped_views must have the same length where the memory serves the targets"
        )
    if isinstance(assignment, Sinkhorn):
        _check_balance(config, groups, assignment)


def _check_balance(config: PretrainConfig, groups: GroupsConfig, assignment: Sinkhorn) -> None:
    if config.keeps_labels:
        if not assignment.tolerance and assignment.iterations < FEWEST_ROUNDS:
            raise BadConfig(
                f"assignment.iterations is {assignment.iterations}, too few to balance the labels of a whole memory: use "
                "--set assignment.iterations=1000 --set assignment.tolerance=0.001"
            )
        return
    rows, most = balanced_rows(config), max(groups.counts)
    if rows < FEWEST_ROWS * most:
        memory = f"--set memory.length={2 * most} --set memory.start_epoch=1, " if config.refresh is None else ""
        raise BadConfig(
            f"groups.counts is {most}, too many to balance {rows} rows over: use {memory}a larger batch, or at most "
            f"{round(rows / FEW_ROWS)} groups"
        )


def _check_spread(config: PretrainConfig, groups: GroupsConfig, assignment: AssignmentConfig) -> None:
    if (
        isinstance(groups, LearnedGroupsConfig)
        and isinstance(assignment, Nearest | Softmax)
        and not isinstance(config.regularizer, MeanEntropy)
    ):
        kind = "nearest" if isinstance(assignment, Nearest) else "softmax"
        raise BadConfig(
            f"assignment.kind is '{kind}': nothing spreads the images over learned groups, and all end in a few of them: "
            "use --set regularizer.kind=mean_entropy, or assignment.kind='sinkhorn'"
        )
