"""The loop starts work on the device and waits for none of it: only the lines of the log do."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.config.toml import from_dict
from coterie.grouping.objective import Objective
from coterie.training.build import build_parts
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.types import Batch, Progress
from tests.matrix import cells
from tests.matrix.cells import BATCH, IMAGES, SIDE, Cell, settings_of

STEPS = 4
METHODS = {**cells.METHODS, "swav with a queue": Cell("learned", "sinkhorn", "same", "queue")}
"""What each method is made of, at the size of the matrix."""


class CopiesFromTheHost(TorchDispatchMode):
    """Counts copies between the processor's memory and the device: from ordinary memory each waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        copied = "copy" in str(function) and isinstance(result, torch.Tensor)
        if copied and any(isinstance(each, torch.Tensor) and each.device != result.device for each in args):
            self.seen.append(str(function))
        return result


def settings(cell: Cell, optimizer: str) -> dict[str, Any]:
    content = settings_of(cell) | {"optimizer": {"kind": optimizer}, "clip_grad_norm": 1.0}
    return content | ({"memory": {"length": 2 * BATCH, "start_epoch": 0}} if cell.when == "queue" else {})


def batches(device: torch.device, views: int, first: int) -> Iterator[tuple[Progress, Batch]]:
    for step in range(first, first + STEPS):
        shown = {view: torch.rand(BATCH, 1, SIDE, SIDE, device=device) for view in range(views)}
        yield Progress(step, IMAGES // BATCH, 1000), Batch(torch.arange(BATCH, device=device), shown)


class Run:
    """The parts of a run, its memory as if it were full, and a monitor that writes no line so soon."""

    def __init__(self, method: str, device: torch.device, optimizer: str = "lars") -> None:
        self.config, self.device = from_dict(settings(METHODS[method], optimizer)), device
        self.parts = build_parts(self.config, device, images=IMAGES)
        if isinstance(self.parts.objective, Objective) and self.parts.objective.memory is not None:
            self.parts.objective.memory.pushed = self.parts.objective.memory.length
        rows, rate = self.config.assigned_rows, self.config.learning_rate
        self.monitor = Monitor(self.config.group_counts, rows, rate, log_steps=10**6, write=print, device=device)
        self.optimizer = self.config.optimizer.build(self.parts.student)

    def go(self, shown: list[tuple[Progress, Batch]], autocast: torch.dtype | None = None) -> None:
        student, objective, rate = self.parts.student, self.parts.objective, self.config.learning_rate
        fit(
            student,
            objective,
            shown,
            self.optimizer,
            rate.at,
            autocast=autocast,
            clip_grad_norm=1.0,
            seed=0,
            on_step_end=[self.monitor.on_step_end],
        )


@pytest.mark.parametrize("method", METHODS)
def test_no_step_asks_for_a_number(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without numbers, who asks for one gets an exception, and so does who lets a shape depend on them."""
    monkeypatch.setattr(torch, "autocast", lambda *rest, **named: nullcontext())  # it does not know that device
    device = torch.device("meta")
    run = Run(method, device)
    shown = list(batches(device, len(run.config.views.roles.used), first=1))  # a refresh, before step 0, may wait
    with CopiesFromTheHost() as copies:
        run.go(shown)
    assert not copies.seen
    with pytest.raises(RuntimeError, match="meta tensors"), copies:  # both would have been seen
        torch.ones(1).to(device)
        run.monitor.check_finite()
    assert copies.seen == ["aten._to_copy.default"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_gpu(method: str, optimizer: str) -> None:
    device = torch.device("cuda")
    run = Run(method, device, optimizer)
    warm, shown = (list(batches(device, len(run.config.views.roles.used), first)) for first in (1, 1 + STEPS))
    run.go(warm, torch.bfloat16)  # libraries set themselves up, and the optimizer makes its state
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.go(shown, torch.bfloat16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.monitor.check_finite()
