from typing import Any

import pytest
import torch

from coterie.config.hardware import STEPS_WORTH_COMPILING, Runtime, choose_compile, choose_device
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict
from coterie.errors import UserError
from coterie.models.encoder import Encoder
from coterie.training.build import build_parts, compile_parts, out_of_memory
from tests.matrix.cells import BATCH, IMAGES, SIDE, Cell, settings_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config(target: str = "teacher") -> PretrainConfig:
    return from_dict(settings_of(Cell("learned", "sinkhorn", target, "batch")))


def test_a_gpu_that_cannot_be_used_is_refused_in_torchs_words() -> None:
    with pytest.raises(UserError, match=r"torch says: .+; use --set run\.device=cpu") as raised:
        choose_device("cuda:63")
    assert "\n" not in str(raised.value)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"run\.device is cuda, but torch says"):
            choose_device("cuda")


def test_compiling_is_for_long_runs_on_a_gpu_unless_it_is_asked_for() -> None:
    for wish, device, steps, expected in (
        ("auto", CUDA, STEPS_WORTH_COMPILING, True),
        ("auto", CUDA, STEPS_WORTH_COMPILING - 1, False),
        ("auto", CPU, 10**6, False),
        ("always", CPU, 1, True),
        ("never", CUDA, 10**6, False),
    ):
        assert choose_compile(wish, device, steps) == expected
    assert not choose_compile("auto", CUDA, STEPS_WORTH_COMPILING, recomputed=True)


def test_student_and_teacher_are_tried_at_the_batch_and_sizes_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_memory_that_runs_out_is_told_with_what_to_lower() -> None:
    said = out_of_memory(
        config(), Runtime(CPU), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
    )
    assert said.startswith(f"not enough memory for {BATCH} images as 2x{SIDE} pixels through resnet18")
    assert "it wanted 2.00 GiB more" in said
    assert f"--batch-size {BATCH // 2}" in said
    assert "--set micro_batches=2" in said
    assert "another --out" in said
    assert "\n" not in said


def test_the_setting_is_checked() -> None:
    settings = settings_of(Cell("learned", "sinkhorn", "same", "batch"))
    assert from_dict(settings | {"run": {"compile": "always"}}).run.compile == "always"
    with pytest.raises(UserError, match="compile"):
        from_dict(settings | {"run": {"compile": "sometimes"}})
