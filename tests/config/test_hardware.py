"""Choices that depend on the machine."""

import os

import pytest
import torch

from coterie.config.hardware import (
    STEPS_WORTH_COMPILING,
    Runtime,
    choose_autocast,
    choose_compile,
    choose_device,
    choose_engine,
    choose_workers,
    has_bfloat16,
)
from coterie.errors import BadConfig, UserError
from coterie.logger import NullLogger

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_gpu_that_cannot_be_used_is_refused_with_torchs_reason() -> None:
    with pytest.raises(UserError, match=r"torch says: .+; choose cpu, or auto") as raised:
        choose_device("cuda:63")
    assert "\n" not in str(raised.value)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"the device is cuda, but torch says"):
            choose_device("cuda")
        assert choose_device("auto") == CPU


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_a_device_that_does_not_exist(name: str) -> None:
    with pytest.raises(BadConfig, match="use auto, cpu, cuda or cuda:0"):
        choose_device(name)


def test_the_engine_follows_the_device_unless_it_is_set() -> None:
    assert choose_engine("auto", CPU)[0] == "cpu"
    assert choose_engine("auto", CUDA)[0] == "gpu"
    assert choose_engine("gpu", CPU) == ("gpu", "set by you")
    assert choose_engine("cpu", CUDA) == ("cpu", "set by you")


def test_workers_leave_one_core_to_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for cores, expected in ((1, 1), (2, 1), (8, 7), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        assert choose_workers(-1) == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # torchrun's: processes that share the 64 cores
    assert choose_workers(-1) == 7
    assert choose_workers(0) == 0
    with pytest.raises(BadConfig, match="workers is -2"):
        choose_workers(-2)


def test_precision() -> None:
    assert choose_autocast("float32", CPU) is None
    assert choose_autocast("bfloat16", CPU) == torch.bfloat16
    assert choose_autocast("auto", CPU) == (torch.bfloat16 if has_bfloat16(CPU) else None)


def test_auto_compiles_long_runs_on_a_gpu_only() -> None:
    for mode, device, steps, expected in (
        ("auto", CUDA, STEPS_WORTH_COMPILING, True),
        ("auto", CUDA, STEPS_WORTH_COMPILING - 1, False),
        ("auto", CPU, 10**6, False),
        ("always", CPU, 1, True),
        ("never", CUDA, 10**6, False),
    ):
        assert choose_compile(mode, device, steps) == expected
    assert not choose_compile("auto", CUDA, STEPS_WORTH_COMPILING, recomputed=True)


def test_a_runtime_is_complete() -> None:
    runtime = Runtime.choose("cpu", "float32", 3)
    assert (runtime.device, runtime.autocast, runtime.workers) == (CPU, None, 3)
    assert isinstance(runtime.logger, NullLogger)
