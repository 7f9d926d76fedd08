"""Frozen layers, a learning rate per layer and a scheduled weight decay: what moves and what does not, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from coterie.config.toml import from_dict
from coterie.grouping.teacher import MomentumTeacher
from coterie.optim.optimizer import scheduled_decay
from coterie.training.build import TrainingParts, build_optimizer, build_parts
from coterie.types import Progress
from tests.distributed.running import CASES, IMAGES, STEPS, carry

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "lars": {"kind": "lars", "weight_decay": 1e-2, "trust": 0.1},
    "sgd": {"kind": "sgd", "weight_decay": 1e-2},
    "adamw": {"kind": "adamw", "weight_decay": 1e-2},
}
PREFIX = "encoder.backbone."


def settings(case: str, trainable: str, optimizer: str, **more: Any) -> dict[str, Any]:
    return {
        "backbone": CASES[case]["backbone"] | {"trainable": trainable},
        "optimizer": OPTIMIZERS[optimizer] | more,
    }


def trained(
    case: str, changes: dict[str, Any], until: int = 5
) -> tuple[dict[str, Tensor], dict[str, Any], TrainingParts]:
    """The student before the first step, everything after the last, and the parts."""
    kept: list[TrainingParts] = []
    before: dict[str, Tensor] = {}

    def note(parts: TrainingParts) -> None:
        kept.append(parts)
        before.update({name: each.detach().clone().double() for name, each in parts.student.state_dict().items()})

    return before, carry(case, 0, until, None, changes, note), kept[0]


def is_frozen(name: str, trainable: str) -> bool:
    learns = {"none": (), "last:1": ("layer4.1.",), "last:3": ("layer3.1.", "layer4.")}[trainable]
    return name.startswith(PREFIX) and not name.removeprefix(PREFIX).startswith(learns or "nothing")


PAIRS = [
    (("smog", "dino")[(one + other) % 2], trainable, optimizer)
    for one, trainable in enumerate(["none", "last:1", "last:3"])
    for other, optimizer in enumerate(OPTIMIZERS)
]
"""Each value with each value of the other two."""


@pytest.mark.parametrize(("case", "trainable", "optimizer"), PAIRS)
def test_frozen_layers_stay_and_all_others_move(case: str, trainable: str, optimizer: str) -> None:
    """Weights and batch statistics of frozen layers are those of the start, and so are the teacher's."""
    before, done, parts = trained(case, settings(case, trainable, optimizer))
    student = done["state"]["student"]
    for name, value in before.items():
        same = torch.equal(value, student[name].double())
        if name.startswith("encoder."):
            assert same == is_frozen(name, trainable), name
    assert any(not torch.equal(value, student[name]) for name, value in before.items() if name.startswith("encoder.pr"))
    teacher = parts.objective.target
    assert isinstance(teacher, MomentumTeacher)
    for name, value in teacher.network.state_dict().items():
        if is_frozen(f"encoder.{name}", trainable):
            assert torch.equal(value.double(), before[f"encoder.{name}"]), name
    names = [name for name, _ in parts.student.named_parameters()]
    groups = done["state"]["optimizer"]["param_groups"]
    places = {place for group in groups for place in group["params"]}
    assert len(places) == len(names)
    if optimizer != "adamw":  # its groups have an order of their own
        held = {names[place] for place in done["state"]["optimizer"]["state"]}
        assert held == {name for name in names if name.startswith("encoder.") and not is_frozen(name, trainable)} | {
            name for name in names if name.startswith("groups.") and case == "dino"
        }


def test_frozen_layers_are_computed_as_in_evaluation() -> None:
    """In training mode their batch norms use their statistics, so that the features of an image depend on it alone."""
    config = from_dict(CASES["smog"] | settings("smog", "none", "sgd"))
    parts = build_parts(config, images=IMAGES)
    encoder = parts.student.train().encoder
    images = torch.randn(4, 1, 16, 16)
    assert torch.allclose(encoder.backbone(images)[:2], encoder.backbone(images[:2]), atol=1e-6)
    assert encoder.projector.training
    assert not any(module.training for module in encoder.backbone.modules())
    assert not any(module.training for module in parts.objective.train().target.network.backbone.modules())


@pytest.mark.parametrize("case", ["smog", "dino"])
def test_frozen_statistics_stay_and_all_weights_move(case: str) -> None:
    """Of student and teacher: running means and variances are those of the start; scale and shift of the norms are trained."""
    changes = {"backbone": CASES[case]["backbone"] | {"frozen_statistics": True}, "optimizer": OPTIMIZERS["adamw"]}
    before, done, parts = trained(case, changes)
    teacher = parts.objective.target
    assert isinstance(teacher, MomentumTeacher)
    states = (
        done["state"]["student"],
        {f"encoder.{name}": value for name, value in teacher.network.state_dict().items()},
    )
    for state in states:
        for name, value in state.items():
            if name.startswith("encoder."):
                kept = name.startswith(PREFIX) and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
                assert torch.equal(value.double(), before[name]) == kept, name
    encoder = parts.student.train().encoder
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    assert torch.allclose(encoder.backbone(images)[:2], encoder.backbone(images[:2]), atol=1e-6)
    assert encoder.backbone.training
    assert encoder.projector.training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_layer_has_the_rate_of_the_one_above_times_the_decay(optimizer: str) -> None:
    """A parameter takes the first step that it takes in a run with its own rate for all."""
    rate = 1e-3

    def after(layer_decay: float, learning_rate: float) -> dict[str, Tensor]:
        changes = {"optimizer": OPTIMIZERS[optimizer] | {"layer_decay": layer_decay}, "learning_rate": learning_rate}
        return carry("swav", 0, 1, None, changes)["state"]["student"]

    start = build_parts(from_dict(CASES["swav"]), images=IMAGES).student.double().state_dict()
    decayed = after(0.5, rate)
    for below, names in (
        (0, "encoder.projector."),
        (1, f"{PREFIX}layer4.1."),
        (2, f"{PREFIX}layer4.0."),
        (9, f"{PREFIX}conv1"),
    ):
        alike = after(1.0, rate * 0.5**below)
        for name in (each for each in decayed if each.startswith(names)):
            assert torch.equal(decayed[name], alike[name]), name
            if name.endswith("weight"):
                assert not torch.equal(decayed[name], start[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_scheduled_decay_that_never_changes_is_the_constant_one(optimizer: str) -> None:
    steady = {"kind": "cosine", "peak": 1e-2, "final": 1e-2}
    constant, scheduled = (
        carry("dino", 0, STEPS, None, {"optimizer": OPTIMIZERS[optimizer] | {"weight_decay": decay}})
        for decay in (1e-2, steady)
    )
    assert constant["losses"] == scheduled["losses"]
    for name, value in constant["state"]["student"].items():
        assert torch.equal(value, scheduled["state"]["student"][name]), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_decay_follows_its_schedule(optimizer: str) -> None:
    """Last seen by the optimizer: the decay of the last step, for all but what AdamW exempts."""
    schedule = {"kind": "cosine", "peak": 0.04, "final": 0.4}
    changes = {"optimizer": OPTIMIZERS[optimizer] | {"weight_decay": schedule}}
    config = from_dict(CASES["dino"] | changes)
    at = scheduled_decay(config.optimizer)
    assert at is not None
    assert at(Progress(0, 3, 9)) == pytest.approx(0.04)
    assert 0.04 < at(Progress(5, 3, 9)) < at(Progress(8, 3, 9)) < 0.4
    decays = [
        group["weight_decay"] for group in carry("dino", 0, 6, None, changes)["state"]["optimizer"]["param_groups"]
    ]
    expected = at(Progress(5, STEPS // 3, STEPS))
    assert decays == ([expected, 0.0] if optimizer == "adamw" else [expected])


def test_the_defaults_have_the_parameter_groups_of_earlier_checkpoints() -> None:
    """Without layer decay and schedule no group has a key that an earlier one had not."""
    for optimizer, keys in (("lars", "trust_clip"), ("sgd", "nesterov"), ("adamw", "amsgrad")):
        config = from_dict(CASES["swav"] | {"optimizer": OPTIMIZERS[optimizer]})
        student = build_parts(config, images=IMAGES).student
        groups = build_optimizer(config, student, student).state_dict()["param_groups"]
        vectors = sum(each.ndim <= 1 for each in student.parameters())
        count = len(list(student.parameters()))
        expected = [count - vectors, vectors] if optimizer == "adamw" else [count]
        assert [len(group["params"]) for group in groups] == expected
        for group in groups:
            assert keys in group
            assert not {"lr_scale", "exempt"} & group.keys()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(optimizer: str) -> None:
    decay = {"weight_decay": {"kind": "cosine", "peak": 0.04, "final": 0.4}, "layer_decay": 0.7}
    changes = settings("dino", "last:3", optimizer, **decay)
    whole = carry("dino", 0, STEPS, None, changes)
    half = carry("dino", 0, 4, None, changes)
    rest = carry("dino", 4, STEPS, half["state"], changes)
    assert half["losses"] + rest["losses"] == whole["losses"]
    for name, value in whole["state"]["student"].items():
        assert torch.equal(value, rest["state"]["student"][name]), name
