"""The rules between the parts of a run's settings: what does not go together is refused, with what to set instead."""

from coterie.config.schema import PretrainConfig
from coterie.errors import BadConfig
from coterie.grouping.assignment import AssignmentConfig, CenteredConfig, Nearest, Sinkhorn, Softmax
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import GroupsConfig, LearnedGroupsConfig
from coterie.grouping.teacher import MomentumTeacherConfig, SameNetwork

FEWEST_ROWS = 1 / 8
"""A balanced assignment of fewer rows a group than this spreads each image over many groups, and learns nothing."""
FEWEST_ROUNDS = 50
"""Labels that are kept want a balance that has settled: after 3 rounds a third of SeLa's are wrong."""


def check_rules(config: PretrainConfig) -> None:
    """Refuse parts that do not go together; asked when settings are whole, so that each can be mended by another.

    Raises:
        BadConfig: names the path, the value, the rule and the mend.
    """
    if config.backbone.channels != config.views.channels:
        raise BadConfig(
            f"backbone.channels is {config.backbone.channels} but views.channels is {config.views.channels}: set both alike"
        )
    if config.predictor is not None and config.predictor.width != config.projector.width:
        raise BadConfig(
            f"predictor.width is {config.predictor.width} but projector.width is {config.projector.width}: both are "
            "compared with the same centers, so set them alike"
        )
    if config.run.activation_checkpointing and config.batch_norm_scope == "joint":
        raise BadConfig(
            "run.activation_checkpointing goes block by block, but batch_norm_scope='joint' has all sizes of views side "
            "by side: set it to false, and micro_batches to 2 or more"
        )
    _check_roles(config)
    if isinstance(config.groups, BatchGroupsConfig) or isinstance(config.assignment, Identity):
        _check_batch_groups(config)
    else:
        _check_refresh(config, config.groups)
        _check_memory(config, config.groups, config.assignment)
        _check_spread(config, config.groups, config.assignment)
    _check_target(config)


def _check_roles(config: PretrainConfig) -> None:
    roles = config.views.roles
    needed = {*roles.grouped_views}
    if isinstance(config.target, SameNetwork) or isinstance(config.groups, BatchGroupsConfig):
        needed |= {*roles.target_views}
    missing = sorted(needed - {*roles.student_views})
    if missing:
        raise BadConfig(f"views.student_views leaves out view {missing[0]}, which decides targets or is grouped")
    if not config.keeps_labels and any({*roles.student_views} <= {view} for view in roles.target_views):
        raise BadConfig("views: the student needs at least 2 views, so that one can predict another's code")
    if roles.bn_only_views and isinstance(config.target, SameNetwork):
        raise BadConfig("views.bn_only_views go through a momentum teacher: set target.kind='teacher', or leave none")


def _check_target(config: PretrainConfig) -> None:
    if not isinstance(config.target, MomentumTeacherConfig):
        if config.refresh is not None and config.refresh.reset_teacher:
            raise BadConfig("refresh.reset_teacher is true, but there is no teacher: set target.kind='teacher'")
        return
    if config.target.covers_groups and not isinstance(config.groups, LearnedGroupsConfig):
        raise BadConfig(
            "target.covers_groups: an average of centers that are found anew means nothing; set it to false, or "
            "groups.kind='learned'"
        )
    of_student = config.memory is not None and config.memory.rows_from == "student"
    if config.keeps_labels and of_student:
        raise BadConfig(
            "memory.rows_from is 'student', so the teacher would decide nothing: set memory.rows_from='target'"
        )
    if config.refresh is None and of_student:
        raise BadConfig(
            "memory.rows_from is 'student', but the teacher's rows are balanced: set memory.rows_from='target'"
        )


def _check_batch_groups(config: PretrainConfig) -> None:
    if not isinstance(config.groups, BatchGroupsConfig):
        raise BadConfig("assignment.kind is 'identity', each image its own group: that needs groups.kind='batch'")
    if config.memory is not None or config.refresh is not None:
        raise BadConfig("groups.kind is 'batch': they last one step; --set memory=none --set refresh=none")
    if isinstance(config.assignment, CenteredConfig):
        raise BadConfig(
            "assignment.kind is 'centered', a running mean of each group's scores, but groups.kind='batch' has other "
            "groups at each step: set assignment.kind='sinkhorn', 'nearest', 'softmax' or 'identity'"
        )
    if config.mean_entropy:
        raise BadConfig("mean_entropy spreads images over lasting groups; with groups.kind='batch' set it to 0")


def _check_refresh(config: PretrainConfig, groups: GroupsConfig) -> None:
    if config.refresh is None:
        if not isinstance(groups, LearnedGroupsConfig):
            raise BadConfig(
                "these groups are found by a refresh of the memory: --set refresh.every_epochs=1, or groups.kind='learned'"
            )
        return
    if config.memory is None:
        raise BadConfig(
            "refresh looks over the memory, and there is none: --set memory.length=N (the images of an epoch)"
        )
    if config.memory.start_epoch > 0:
        raise BadConfig("memory.start_epoch: a memory that is looked over from the start begins there: set it to 0")
    if isinstance(groups, LearnedGroupsConfig) and not (config.refresh.labels or config.refresh.reset_teacher):
        raise BadConfig("refresh does nothing with learned groups: set refresh.labels=true, or --set refresh=none")
    rows, most = config.memory.length // config.batch_size * config.batch_size, max(groups.counts)
    if most > rows:
        raise BadConfig(
            f"groups.counts is {most}, more than the {rows} rows that a refresh can see: set memory.length to "
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
        raise BadConfig("memory: only a balanced assignment (sinkhorn) or a refresh looks at it: --set memory=none")
    together = config.refresh is None or (memory is not None and memory.rows_from == "target")
    if memory is not None and together and len(roles.target_views) != len(roles.grouped_views):
        raise BadConfig(
            "views.target_views and views.grouped_views must be as many where the memory serves the targets"
        )
    if isinstance(assignment, Sinkhorn):
        _check_balance(config, groups, assignment)


def _check_balance(config: PretrainConfig, groups: GroupsConfig, assignment: Sinkhorn) -> None:
    if config.keeps_labels:
        if not assignment.tolerance and assignment.iterations < FEWEST_ROUNDS:
            raise BadConfig(
                f"assignment.iterations is {assignment.iterations}: labels of a whole memory are not balanced so soon; "
                "--set assignment.iterations=1000 --set assignment.tolerance=0.001"
            )
        return
    queue = config.memory.length if config.memory is not None and config.refresh is None else 0
    rows, most = config.batch_size + queue, max(groups.counts)
    if rows < FEWEST_ROWS * most:
        memory = f"--set memory.length={2 * most} --set memory.start_epoch=1, " if config.refresh is None else ""
        raise BadConfig(
            f"groups.counts is {most}: balancing {rows} rows over so many groups must fail; {memory}a larger batch, or at "
            f"most {round(rows / FEWEST_ROWS)} groups"
        )


def _check_spread(config: PretrainConfig, groups: GroupsConfig, assignment: AssignmentConfig) -> None:
    if (
        isinstance(groups, LearnedGroupsConfig)
        and isinstance(assignment, Nearest | Softmax)
        and not config.mean_entropy
    ):
        kind = "nearest" if isinstance(assignment, Nearest) else "softmax"
        raise BadConfig(
            f"assignment.kind is '{kind}': nothing spreads the images over learned groups, and all end in a few of them; "
            "--set mean_entropy=1, or assignment.kind='sinkhorn'"
        )
