"""What a new run takes over from a MODEL: bit for bit what fits, and a line about the rest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

import coterie
from coterie.cli.demo import write_patches
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_run_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.grouping.teacher import MomentumTeacher
from coterie.training import checkpoint_io
from coterie.training.build import TrainingParts, build_parts

IMAGES = 96
SETTINGS = [
    "backbone.width=0.125",
    "run.workers=0",
    "run.threads=1",
    "run.snapshots=0",
    "run.device=cpu",
    "groups.counts=8",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    write_patches(folder / "patches.parquet", photo_patches("train", IMAGES, 16))
    return {
        method: coterie.pretrain(
            method,
            folder / "patches.parquet",
            out=folder / method,
            epochs=1,
            batch_size=24,
            settings=[*SETTINGS, *more],
            quiet=True,
        )
        for method, more in (("swav", ()), ("smog", ("target.kind=teacher", "predictor={hidden=[512], width=128}")))
    }


def started(folder: Path, model: str | Path, **changes: Any) -> TrainingParts:
    """The parts of a new run of the settings in ``folder``, with another seed, that starts from ``model``."""
    config = settings(folder, **changes)
    return build_parts(replace(config, backbone=replace(config.backbone, weights=str(model))), images=IMAGES)


def settings(folder: Path, **changes: Any) -> PretrainConfig:
    return from_dict(read_run_toml(folder) | {"seed": 7} | changes)


def checkpoint(folder: Path) -> dict[str, Any]:
    return checkpoint_io.load(folder / "checkpoint")[1] or {}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(found[name], each) for name, each in expected.items())


def test_a_run_gives_backbone_heads_groups_and_teacher(runs: dict[str, Path]) -> None:
    swav = started(runs["swav"], runs["swav"])
    assert same(swav.student.state_dict(), checkpoint(runs["swav"])["student"])
    assert swav.start == f"{runs['swav']}: took 120 tensors; also took the projector, the 8 groups"
    smog = started(runs["smog"], runs["smog"])
    student, before = smog.student.state_dict(), checkpoint(runs["smog"])
    assert same(student, {name: each for name, each in before["student"].items() if name.startswith("encoder.")})
    teacher = smog.objective.target
    assert isinstance(teacher, MomentumTeacher)
    kept = {
        name.removeprefix("target."): each for name, each in before["objective"].items() if name.startswith("target.")
    }
    assert same(teacher.state_dict(), kept)
    assert not torch.equal(teacher.network.backbone.conv1.weight, smog.student.encoder.backbone.conv1.weight)
    assert "also took the projector, the predictor, the teacher; left groups of its checkpoint" in str(smog.start)


def test_what_does_not_fit_is_left_as_it_is_without_weights(runs: dict[str, Path]) -> None:
    changes = {"projector": {"hidden": [64], "width": 32}, "predictor": {"hidden": [64], "width": 32}}
    parts = started(runs["smog"], runs["smog"], **changes)
    fresh = build_parts(settings(runs["smog"], **changes), images=IMAGES).student
    assert same(parts.student.encoder.projector.state_dict(), fresh.encoder.projector.state_dict())
    assert same(parts.student.encoder.predictor.state_dict(), fresh.encoder.predictor.state_dict())
    assert not same(parts.student.encoder.backbone.state_dict(), fresh.encoder.backbone.state_dict())
    assert "also took" not in str(parts.start)
    assert "left projector, predictor, groups and 1 more of its checkpoint" in str(parts.start)
    teacher = parts.objective.target
    assert torch.equal(teacher.network.backbone.conv1.weight, parts.student.encoder.backbone.conv1.weight)
    other = started(runs["swav"], runs["swav"], groups={"kind": "learned", "counts": [9]})
    assert "also took the projector; left groups of its checkpoint" in str(other.start)


def test_a_teacher_of_frozen_layers_is_the_student(runs: dict[str, Path]) -> None:
    backbone = read_run_toml(runs["smog"])["backbone"] | {"trainable": "last:2"}
    parts = started(runs["smog"], runs["smog"], backbone=backbone)
    assert "left groups, teacher" in str(parts.start)
    assert same(parts.objective.target.network.backbone.state_dict(), parts.student.encoder.backbone.state_dict())


def test_a_file_gives_the_backbone_alone(runs: dict[str, Path]) -> None:
    parts = started(runs["swav"], runs["swav"] / "model.safetensors")
    assert same(
        parts.student.encoder.backbone.state_dict(), safetensors.torch.load_file(runs["swav"] / "model.safetensors")
    )
    fresh = build_parts(settings(runs["swav"]), images=IMAGES).student
    assert same(parts.student.encoder.projector.state_dict(), fresh.encoder.projector.state_dict())


def test_the_release_of_swav_gives_its_head_and_prototypes(runs: dict[str, Path], tmp_path: Path) -> None:
    """Its schema: ``module.`` before everything, ``projection_head.N``, ``prototypes.weight``; rows of any length."""
    student = build_parts(settings(runs["swav"]), images=IMAGES).student
    encoder = student.encoder
    prototypes = 3 * torch.randn(8, encoder.projector.layers[-2].out_features)
    state = {f"module.{name}": each for name, each in encoder.backbone.state_dict().items()}
    state |= {
        f"module.projection_head.{name}": each + 1 for name, each in encoder.projector.layers.state_dict().items()
    }
    torch.save({"state_dict": state | {"module.prototypes.weight": prototypes}}, tmp_path / "swav.pth.tar")
    parts = started(runs["swav"], tmp_path / "swav.pth.tar", seed=9)
    assert str(parts.start).endswith(
        "under state_dict.module; also took projection_head as the projector, prototypes as the 8 groups"
    )
    found = parts.student.encoder.projector.layers.state_dict()
    assert same(found, {name: each + 1 for name, each in encoder.projector.layers.state_dict().items()})
    assert torch.equal(parts.student.groups.centers()[0], F.normalize(prototypes, dim=1))


def test_heads_of_other_shapes_in_a_file_are_left(runs: dict[str, Path], tmp_path: Path) -> None:
    encoder = build_parts(settings(runs["swav"]), images=IMAGES).student.encoder
    state = dict(encoder.backbone.state_dict())
    state |= {"projection_head.0.weight": torch.zeros(3, 64), "prototypes.weight": torch.zeros(8, 3)}
    torch.save(state, tmp_path / "other.pth")
    parts = started(runs["swav"], tmp_path / "other.pth")
    assert str(parts.start).endswith("tensors; left projection_head, prototypes")
    fresh = build_parts(settings(runs["swav"]), images=IMAGES).student
    assert same(parts.student.encoder.projector.state_dict(), fresh.encoder.projector.state_dict())
    assert torch.equal(parts.student.groups.centers()[0], fresh.groups.centers()[0])


def test_weights_of_another_network_are_refused(runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="does not fit resnet18") as caught:
        started(runs["swav"], runs["swav"], backbone={"name": "resnet18", "width": 0.25, "stem": "small"})
    assert "\n" not in str(caught.value)


def test_without_weights_nothing_is_read(runs: dict[str, Path]) -> None:
    parts = build_parts(settings(runs["swav"]), images=IMAGES)
    assert parts.start is None
    config = settings(runs["swav"])
    gone = replace(config, backbone=replace(config.backbone, weights="/nowhere"))
    assert build_parts(gone, images=IMAGES, starting_weights=False).start is None
