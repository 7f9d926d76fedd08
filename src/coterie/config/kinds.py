"""The kinds that a setting may have, by the name that ``kind`` gives them in ``config.toml``."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

from coterie.grouping.assignment import CenteredConfig, Nearest, Sinkhorn, Softmax
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import KMeansGroupsConfig, LearnedGroupsConfig, MomentumGroupsConfig
from coterie.grouping.teacher import MomentumTeacherConfig, SameNetwork
from coterie.optim.optimizer import AdamWConfig, LarsConfig, SgdConfig
from coterie.optim.schedule import Constant, Cosine, Linear

KINDS: dict[type, str] = {
    Constant: "constant",
    Linear: "linear",
    Cosine: "cosine",
    SameNetwork: "same",
    MomentumTeacherConfig: "teacher",
    LearnedGroupsConfig: "learned",
    KMeansGroupsConfig: "kmeans",
    MomentumGroupsConfig: "momentum",
    BatchGroupsConfig: "batch",
    Sinkhorn: "sinkhorn",
    Nearest: "nearest",
    Softmax: "softmax",
    CenteredConfig: "centered",
    Identity: "identity",
    LarsConfig: "lars",
    SgdConfig: "sgd",
    AdamWConfig: "adamw",
}


OPTIONAL = {"predictor", "memory", "refresh", "clip_grad_norm", "probe", "weights", "mean", "std", "image_size"}
OPTIONAL |= {"student_views", "target_views", "grouped_views"}
"""The settings that may be left out, which means something."""


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else, itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
