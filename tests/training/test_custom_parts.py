"""Parts of your own in a run: they train, are recorded, resume bitwise with the same parts, and are refused without them."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from examples.new_assignment import Auction
from torch import Tensor, nn
from torch.nn import functional as F

import coterie
from coterie import CustomParts
from coterie.cli.demo import write_patches
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.grouping.assignment import Nearest
from coterie.grouping.groups import Groups
from coterie.training import checkpoint_io
from coterie.training.callback_runner import CallbackError
from coterie.training.loaded_run import load_run
from coterie.training.student import Student
from coterie.types import Batch, Progress, Roles, StepResult
from tests.faults.running import assert_same_runs

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[8] memory=none "
    "run.threads=1 run.workers=0 run.log_steps=2 run.save_minutes=1000 run.snapshots=1 run.device=cpu"
).split()
CENTERS = 5  # not the 8 of the settings


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 48, 16))
    return path


class OwnGroups(nn.Module):
    """Five learned centers, and a count of the steps that they took."""

    refits = False
    moves: Tensor

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(CENTERS, 128, generator=torch.Generator().manual_seed(1))
        self.weight = nn.Parameter(F.normalize(drawn, dim=1))
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))

    def centers(self) -> list[Tensor]:
        return [self.weight]

    def update_centers(self, z: Tensor, progress: Progress) -> list[Tensor]:
        return self.centers()

    def refit(self, head: int, rows: Tensor, starts: Tensor) -> None: ...

    def after_backward(self, progress: Progress) -> None: ...

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        self.weight.copy_(F.normalize(self.weight, dim=1))
        self.moves += 1


class LaggingTeacher(nn.Module):
    """A copy of the student that catches up every other step."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.network = copy.deepcopy(student.encoder).requires_grad_(False)
        self._followed = (student.encoder,)

    def before_step(self, progress: Progress) -> None: ...

    @torch.no_grad()
    def embed(self, views: Mapping[int, Tensor], roles: Roles, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        features, embeddings, _ = self.network([views[view] for view in roles.target_views])
        return features, embeddings

    def centers(self, groups: Groups) -> list[Tensor]:
        return groups.centers()

    def after_step(self, progress: Progress) -> None:
        if progress.step % 2:
            self.copy_from_student()

    def copy_from_student(self) -> None:
        self.network.load_state_dict(self._followed[0].state_dict())


class Invariance(nn.Module):
    """Views of an image attract each other and the mean of the batch repels them: no groups, a loss of your own."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Callable[..., Any], batch: Batch, progress: Progress) -> StepResult:
        _, z, _ = student([batch.views[view] for view in range(4)])
        self.seen += len(batch.index)
        loss = 5 + z.mean(dim=(0, 1)).square().sum() - (z[0] * z[1]).sum(dim=1).mean()
        return StepResult(loss, z.detach(), [], batch.index)

    def needs_fill(self) -> bool:
        return False

    def fill(self, student: Any, batches: Any) -> None: ...

    def refresh_due(self, progress: Progress) -> bool:
        return False

    def refresh(self, progress: Progress) -> None: ...

    def after_backward(self, progress: Progress) -> None: ...

    def after_step(self, progress: Progress) -> None: ...


def invariance(student: Student, config: PretrainConfig) -> Invariance:
    assert config.batch_size == 16
    return Invariance()


PARTS: dict[str, tuple[CustomParts, str]] = {
    "assignment": (CustomParts(assignment=Auction()), "examples.new_assignment.Auction"),
    "groups": (CustomParts(groups=OwnGroups()), f"{__name__}.OwnGroups"),
    "target": (CustomParts(target=LaggingTeacher), f"{__name__}.LaggingTeacher"),
    "objective": (CustomParts(objective=invariance), f"{__name__}.invariance"),
}


class Stop(coterie.Callback):
    """Ends the process, as it were, after the second step."""

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        if progress.step == 1:
            raise InterruptedError


def train(
    images: Path, out: Path, parts: CustomParts | None, method: str = "swav", *settings: str, **more: Any
) -> Path:
    chosen = [*SETTINGS, *settings] if method == "swav" else [*settings]
    return coterie.pretrain(method, images, out=out, epochs=2, batch_size=16, settings=chosen, parts=parts, **more)


@pytest.fixture(scope="module", params=PARTS)
def trained(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, train(images, tmp_path_factory.mktemp("run") / "run", PARTS[request.param][0])


def test_they_train_and_are_recorded(trained: tuple[str, Path], images: Path, tmp_path: Path) -> None:
    name, run = trained
    assert from_dict(read_toml(run / "config.toml")).custom == (f"{name}={PARTS[name][1]}",)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["step"] == 5
    assert not any("warning" in line for line in lines)
    other = train(images, tmp_path / "plain", None)
    mine, theirs = (coterie.load_backbone(each).state_dict() for each in (run, other))
    assert not all(torch.equal(mine[each], theirs[each]) for each in mine)
    _, state, _ = checkpoint_io.load(run / "checkpoint")
    assert state is not None
    if name == "groups":
        assert state["student"]["groups.moves"] == 6
        assert next(line for line in lines if "loss" in line)["groups"] == CENTERS
    if name == "target":
        assert any(each.startswith("target.network.") for each in state["objective"])
    if name == "objective":
        assert state["objective"]["seen"] == 6 * 16


def test_they_resume_bitwise_with_the_same_parts_and_not_without(
    trained: tuple[str, Path], images: Path, tmp_path: Path
) -> None:
    name, whole = trained
    parts, qualified = PARTS[name]
    with pytest.raises(CallbackError):
        train(images, tmp_path / "run", parts, callbacks=[Stop()])
    assert checkpoint_io.load(tmp_path / "run" / "checkpoint")[0] == 2
    for other in (None, CustomParts(assignment=Nearest())):
        with pytest.raises(UserError, match=r"pass the same coterie\.CustomParts") as raised:
            train(images, tmp_path / "run", other)
        assert f"{name}={qualified}" in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"pass the same coterie\.CustomParts"):
        coterie.pretrain(config=whole / "config.toml", out=tmp_path / "other")
    train(images, tmp_path / "run", parts)  # the same object: the run before has not changed it
    assert_same_runs(tmp_path / "run", whole)


def test_their_backbone_is_evaluated_and_embeds(trained: tuple[str, Path], images: Path, tmp_path: Path) -> None:
    name, run = trained
    assert 0 <= coterie.evaluate(run, images)["knn"]["k20_t0.07_top1"] <= 100
    assert coterie.embed(run, images, tmp_path / "rows.parquet") == 48
    groups = set(pq.read_table(tmp_path / "rows.parquet")["group"].to_pylist())
    assert groups == {-1} if name == "groups" else groups <= set(range(8))
    assert (load_run(run).student.groups is None) is (name == "groups")


def test_custom_groups_in_a_method_without_lasting_ones(images: Path, tmp_path: Path) -> None:
    """The batch as groups is replaced, and so must be an assignment that belongs to it."""
    small = [each for each in SETTINGS if not each.startswith(("groups", "memory"))]
    with pytest.raises(UserError, match=r"'identity' .* does not fit CustomParts\.groups"):
        train(images, tmp_path / "run", CustomParts(groups=OwnGroups()), "simclr", *small)
    parts = CustomParts(groups=OwnGroups(), assignment=Auction())
    run = train(images, tmp_path / "run", parts, "simclr", *small)
    assert from_dict(read_toml(run / "config.toml")).custom == (
        "assignment=examples.new_assignment.Auction",
        f"groups={__name__}.OwnGroups",
    )


@pytest.mark.parametrize("method", ["simclr", "resa"])
def test_a_custom_assignment_of_the_batch(images: Path, tmp_path: Path, method: str) -> None:
    """It assigns images to images; the monitor counts as many groups."""
    small = [each for each in SETTINGS if not each.startswith(("groups", "memory"))]
    run = train(images, tmp_path / "run", CustomParts(assignment=Auction()), method, *small)
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert line["groups"] == 16
    plain = train(images, tmp_path / "plain", None, method, *small)
    mine, theirs = (coterie.load_backbone(each).state_dict() for each in (run, plain))
    assert not all(torch.equal(mine[each], theirs[each]) for each in mine)


def test_parts_that_lack_something_are_refused_when_they_are_given() -> None:
    class Half(nn.Module):
        refits = False

    class Plain:
        refits = False
        centers = update_centers = refit = after_backward = after_step = lambda self: None

    wrong: list[tuple[str, object, str]] = [
        ("groups", Half(), "Half has no after_backward, after_step, centers, refit, update_centers; see coterie."),
        ("groups", Plain(), "Plain must be a torch.nn.Module"),
        ("assignment", "sinkhorn", "builtins.str has no group_bias"),
        ("target", "teacher", "CustomParts.target is 'teacher': give a function that builds it"),
    ]
    for name, part, message in wrong:
        parts = CustomParts()
        object.__setattr__(parts, name, part)  # past the type checks of these tests
        with pytest.raises(UserError) as raised:
            parts.__post_init__()
        assert message in str(raised.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (CustomParts(objective=lambda student, config: nn.Identity()), "has no after_backward, after_step, fill"),
        (CustomParts(objective=lambda student, config: 3), "must be a torch.nn.Module"),  # type: ignore[arg-type,return-value]
        (CustomParts(target=lambda student: student.encoder), "has no after_step, before_step, centers"),  # type: ignore[arg-type,return-value]
    ],
)
def test_functions_that_build_something_else(images: Path, tmp_path: Path, parts: CustomParts, message: str) -> None:
    with pytest.raises(UserError) as raised:
        train(images, tmp_path / "run", parts)
    assert message in str(raised.value)
