"""The objects of a run follow from its settings; what does not fit is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict
from coterie.data.sources.arrays import Arrays
from coterie.errors import BadConfig, UserError
from coterie.grouping.assignment import Nearest
from coterie.models.encoder import Encoder
from coterie.training.build import build_loader, build_parts, build_student, compile_parts, group_counts, out_of_memory
from coterie.training.custom_parts import CustomParts
from tests.matrix.cells import BATCH, EPOCHS, GROUPS, IMAGES, SIDE, Cell, settings_of

CPU = torch.device("cpu")


def config(target: str = "teacher") -> PretrainConfig:
    return from_dict(settings_of(Cell("learned", "sinkhorn", target, "batch")))


def test_student_and_teacher_are_compiled_at_the_batch_and_sizes_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def compiling(network: torch.nn.Module, **_: object) -> Any:
        def run(*batches: torch.Tensor) -> Any:
            tried.append((tuple(batches[0].shape), torch.is_grad_enabled()))
            return network(*batches)

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    wanted = config()
    parts = build_parts(wanted, images=IMAGES)
    assert compile_parts(parts, wanted, Runtime(CPU)) is None
    assert tried == [((2 * BATCH, 1, SIDE, SIDE), True), ((2 * BATCH, 1, SIDE, SIDE), False)]
    teacher = parts.objective.target.network
    assert isinstance(teacher, Encoder)


def test_running_out_of_memory_is_one_line_with_what_to_lower() -> None:
    text = out_of_memory(
        config(), Runtime(CPU), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
    )
    assert text.startswith(f"not enough memory for {BATCH} images as 2x{SIDE} pixels through resnet18")
    assert "2.00 GiB more were requested" in text
    assert f"--batch-size {BATCH // 2}" in text
    assert "--set micro_batches=2" in text
    assert "another --out" in text
    assert "\n" not in text


def source(images: int = IMAGES) -> Arrays:
    return Arrays(np.zeros((images, SIDE, SIDE), np.uint8))


def test_a_loader_has_the_batches_of_the_settings() -> None:
    loader = build_loader(config(), source(), Runtime(CPU))
    assert (loader.steps_per_epoch, loader.total_steps) == (IMAGES // BATCH, IMAGES // BATCH * EPOCHS)
    loader = build_loader(replace(config(), images=2 * IMAGES + BATCH), source(), Runtime(CPU))
    assert loader.total_steps == 2 * (IMAGES // BATCH) + 1


def test_batches_and_groups_must_fit_the_images() -> None:
    with pytest.raises(BadConfig, match=f"groups.counts is {GROUPS}, more than the 8 images of an epoch: use --set"):
        build_loader(replace(config(), batch_size=8), source(15), Runtime(CPU))
    with pytest.raises(UserError, match=f"fewer than one batch of {BATCH}"):
        build_loader(config(), source(BATCH - 1), Runtime(CPU))


def test_a_student_follows_from_the_seed_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (build_student(config()).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = build_student(replace(config(), seed=1)).state_dict()
    assert not torch.equal(other["groups.heads.0"], one["groups.heads.0"])


def test_groups_are_counted_where_they_are() -> None:
    student = build_student(config())
    assert group_counts(config(), student) == (GROUPS,)
    student.groups = None
    assert group_counts(config(), student) == config().group_counts
    custom = CustomParts(assignment=Nearest())
    assert group_counts(config(), student, custom) == (BATCH, BATCH)  # the images, for each target view


def test_the_setting_is_checked() -> None:
    settings = settings_of(Cell("learned", "sinkhorn", "same", "batch"))
    assert from_dict(settings | {"run": {"compile": "always"}}).run.compile == "always"
    with pytest.raises(UserError, match="compile"):
        from_dict(settings | {"run": {"compile": "sometimes"}})
