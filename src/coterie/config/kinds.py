"""The kinds of each part, and the name of each kind in ``config.toml``."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

from coterie.grouping.assignment import CenteredConfig, Nearest, Sinkhorn, Softmax
from coterie.grouping.batch_objective import BatchGroupsConfig, Identity
from coterie.grouping.groups import KMeansGroupsConfig, LearnedGroupsConfig, MomentumGroupsConfig
from coterie.grouping.regularizers import CodingRate, KoLeo, MeanEntropy, Uniformity, VarianceCovariance
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
    CodingRate: "coding_rate",
    MeanEntropy: "mean_entropy",
    VarianceCovariance: "variance_covariance",
    Uniformity: "uniformity",
    KoLeo: "koleo",
    LarsConfig: "lars",
    SgdConfig: "sgd",
    AdamWConfig: "adamw",
}
"""The value of ``kind`` for each class."""


def union_members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is no union is its only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
