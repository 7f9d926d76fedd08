"""Every kind of part works on the device that it was moved to: no operation meets a tensor that was left on the CPU.

The device is torch's "meta": it computes shapes only, and refuses tensors of another device.
"""

import copy
import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.grouping.assignment import Assignment, Centered, Nearest, Sinkhorn, Softmax
from coterie.grouping.batch_objective import BatchObjective, Identity
from coterie.grouping.groups import KMeansGroups, LastingGroups, LearnedGroups, MomentumGroups
from coterie.grouping.memory_queue import Memory, Refresh
from coterie.grouping.objective import Objective
from coterie.grouping.regularizers import MeanEntropy
from coterie.grouping.teacher import MomentumTeacher, SameNetwork, TargetNetwork
from coterie.optim.schedule import Constant
from coterie.types import Batch, Progress, Roles, StepResult

META = torch.device("meta")
IMAGES, WIDTH, COUNTS = 6, 5, (4, 3)
AT, ROLES = Progress(1, 10, 100), Roles((0, 1, 2), (0, 1), (0, 1))


class Network(nn.Module):
    """A layer and a batch norm, which has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(12, WIDTH), nn.BatchNorm1d(WIDTH)

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.stack([self.norm(self.layer(view.flatten(1))) for view in views])
        z = F.normalize(h, dim=-1)
        return h, z, z


GROUPS = ("learned", "kmeans", "momentum", "momentum with gradient")
ASSIGNMENTS = ("sinkhorn", "hard sinkhorn", "nearest", "softmax", "centered")
TARGETS = ("same", "teacher", "teacher with centers")


def groups_of(kind: str) -> LastingGroups:
    centers = [torch.randn(count, WIDTH) for count in COUNTS]
    if kind == "learned":
        return LearnedGroups(centers)
    return (
        KMeansGroups(centers) if kind == "kmeans" else MomentumGroups(centers, Constant(0.9), gradient="with" in kind)
    )


def assignment_of(kind: str) -> Assignment:
    if kind == "centered":
        return Centered(COUNTS, Constant(0.04))
    kinds = {"nearest": Nearest(), "softmax": Softmax(), "sinkhorn": Sinkhorn(tolerance=0.0)}
    return kinds.get(kind, Sinkhorn(hard=True))


def target_of(kind: str, network: Network, groups: LastingGroups | None) -> TargetNetwork:
    if kind == "same":
        return SameNetwork()
    own = groups if kind == "teacher with centers" else None
    return MomentumTeacher(copy.deepcopy(network), network, own, momentum=Constant(0.9), before=True)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.autocast does not know the device "meta"; in these tests nothing is in low precision."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def batch() -> Batch:
    views = {view: torch.empty(IMAGES, 3, 2, 2, device=META) for view in range(3)}
    return Batch(torch.empty(IMAGES, dtype=torch.int64, device=META), views)


def step(objective: Objective | BatchObjective, network: Network) -> StepResult:
    objective.to(META)
    network.to(META)
    result = objective(network, batch(), AT)
    result.loss.backward()
    objective.after_backward(AT)
    objective.after_step(AT)
    tensors = [result.loss, result.z, result.index, *(target.values for target in result.targets)]
    assert {each.device for each in tensors} == {META}
    assert {each.device for each in objective.state_dict().values() if isinstance(each, Tensor)} <= {META}
    assert network.layer.weight.grad is not None
    assert network.layer.weight.grad.device == META
    return result


@pytest.mark.parametrize(("groups", "assignment", "target"), itertools.product(GROUPS, ASSIGNMENTS, TARGETS))
def test_a_step_stays_on_its_device(groups: str, assignment: str, target: str) -> None:
    network, lasting = Network(), groups_of(groups)
    parts = assignment_of(assignment), ROLES
    objective = Objective(lasting, *parts, target=target_of(target, network, lasting), regularizer=MeanEntropy(1.0))
    lasting.to(META)
    result = step(objective, network)
    assert len(result.targets) == 2 * len(COUNTS)


@pytest.mark.parametrize("rows_from", ["student", "target"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_full_queue_stays_on_its_device(rows_from: str, target: str) -> None:
    network, lasting = Network(), groups_of("learned")
    memory = Memory(2 * IMAGES, 2, WIDTH, batch_size=IMAGES)
    memory.pushed = memory.length
    objective = Objective(
        lasting,
        Sinkhorn(),
        ROLES,
        target=target_of(target, network, lasting),
        memory=memory,
        rows_from=rows_from,  # type: ignore[arg-type]
    )
    lasting.to(META)
    step(objective, network)
    assert memory.rows.device == META


@pytest.mark.parametrize("groups", GROUPS)
def test_kept_labels_and_a_refresh_stay_on_their_device(groups: str) -> None:
    """Labeling itself needs the numbers of the images, which this device does not have: its parts are run one by one."""
    network, lasting = Network(), groups_of(groups)
    memory, refresh = Memory(2 * IMAGES, 2, WIDTH, batch_size=IMAGES), Refresh(labels=True)
    objective = Objective(lasting, Nearest(), ROLES, memory=memory, refresh=refresh, images=20)
    lasting.to(META)
    result = step(objective, network)
    assert [target.view for target in result.targets] == [None, None]
    objective.labels = None
    objective.refresh(AT)
    assert {each.device for each in lasting.centers()} == {META}


@pytest.mark.parametrize("assignment", ["identity", "sinkhorn", "nearest", "softmax"])
@pytest.mark.parametrize("target", ["same", "teacher"])
def test_a_step_with_groups_of_the_batch_stays_on_its_device(assignment: str, target: str) -> None:
    network = Network()
    kind = Identity() if assignment == "identity" else assignment_of(assignment)
    objective = BatchObjective(kind, ROLES, target=target_of(target, network, None))
    step(objective, network)
