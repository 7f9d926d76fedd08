"""The loop calls an objective in a fixed order; the objective inherits nothing."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coterie.training.loop import ObjectiveLike, fit
from coterie.types import Batch, Progress, StepResult

STEPS, PER_EPOCH = 4, 2


class Student(nn.Module):
    """Embeds a view by one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, views: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.stack([self.layer(self.dropout(view)) for view in views])
        return h, h, h


class Recorder:
    """An objective of its own kind that writes down how it is called."""

    def __init__(self, fills: bool = True) -> None:
        self.calls: list[Any] = []
        self.fills = fills
        self.weights: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __call__(self, student: Any, batch: Batch, progress: Progress) -> StepResult:
        self.calls.append(("loss", progress.step))
        h, _, _ = student(list(batch.views.values()))
        self.weights.append(student.layer.weight.detach().clone())
        self.outputs.append(h.detach())
        self._student = student
        return StepResult(100 * h.square().sum(), h.detach(), [], batch.index)

    def needs_fill(self) -> bool:
        return self.fills

    def fill(self, student: Any, batches: Iterable[tuple[Progress, Batch]]) -> None:
        self.calls.append(("fill", len(list(batches))))

    def refresh_due(self, progress: Progress) -> bool:
        return progress.step_in_epoch == 0

    def refresh(self, progress: Progress) -> None:
        self.calls.append(("refresh", progress.step))

    def after_backward(self, progress: Progress) -> None:
        self.calls.append(("backward", progress.step))
        self.gradient = self._student.layer.weight.grad.norm().item()
        assert torch.equal(self._student.layer.weight, self.weights[-1])  # the optimizer has not moved it

    def after_step(self, progress: Progress) -> None:
        self.calls.append(("step", progress.step))
        assert self._student.layer.weight.grad is None
        assert not torch.equal(self._student.layer.weight, self.weights[-1])


def batches(first: int = 0) -> list[tuple[Progress, Batch]]:
    generator = torch.Generator().manual_seed(0)
    views = [{0: torch.randn(5, 3, generator=generator)} for _ in range(STEPS)]
    made = [(Progress(step, PER_EPOCH, STEPS), Batch.__new__(Batch)) for step in range(STEPS)]
    for (_, batch), view in zip(made, views, strict=True):
        object.__setattr__(batch, "index", torch.arange(5))  # views of three numbers, not images
        object.__setattr__(batch, "views", view)
        object.__setattr__(batch, "bad", ())
    return made[first:]


def carried(objective: Recorder, first: int = 0, student: Student | None = None, **options: Any) -> Student:
    torch.manual_seed(0)
    student = student or Student()
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    options = {"fill_batches": lambda: batches()[:PER_EPOCH], "learning_rate": lambda progress: 1e-3} | options
    fit(student, objective, batches(first), optimizer, **options)
    return student


def test_the_order_of_calls() -> None:
    objective = Recorder()
    assert isinstance(objective, ObjectiveLike)
    calls = objective.calls
    hooks = [
        lambda progress, result: calls.append(("first hook", progress.step)),
        lambda progress, result: calls.append(("second hook", progress.step)),
    ]
    carried(objective, on_step_end=hooks)
    parts = ("loss", "backward", "step", "first hook", "second hook")
    steps = [[(part, step) for part in parts] for step in range(STEPS)]
    assert calls == [
        ("fill", PER_EPOCH),
        ("refresh", 0),
        *steps[0],
        *steps[1],
        ("refresh", 2),
        *steps[2],
        *steps[3],
    ]


def test_a_memory_that_is_full_is_not_filled() -> None:
    objective = Recorder(fills=False)
    carried(objective, fill_batches=None)
    assert objective.calls[0] == ("refresh", 0)
    with pytest.raises(AssertionError, match="pass fill_batches"):
        carried(Recorder(), fill_batches=None)


def test_the_gradient_is_clipped_after_the_objective_and_its_norm_reported() -> None:
    norms: list[float] = []
    moved: list[float] = []

    class Watching(Recorder):
        def after_step(self, progress: Progress) -> None:
            super().after_step(progress)
            moved.append((self._student.layer.weight - self.weights[-1]).norm().item())

    objective = Watching()
    carried(
        objective,
        learning_rate=lambda progress: 1.0,
        clip_grad_norm=0.5,
        on_step_end=[lambda progress, result: norms.append(result.gradient_norm.item())],
    )
    assert min(norms) > 0.5  # before it was clipped
    assert norms[-1] >= objective.gradient > 0.5  # of all weights, the bias among them; not clipped yet
    assert max(moved) <= 0.5 + 1e-4


def test_the_learning_rate_is_that_of_the_step() -> None:
    steps: list[int] = []

    def rate(progress: Progress) -> float:
        steps.append(progress.step)
        return 0.0 if progress.step else 1e-3

    class Still(Recorder):
        def after_step(self, progress: Progress) -> None:
            assert torch.equal(self._student.layer.weight, self.weights[-1]) is (progress.step > 0)

    carried(Still(), learning_rate=rate)
    assert steps == list(range(STEPS))


def test_a_seed_makes_a_resumed_run_draw_the_same() -> None:
    whole, late, other = Recorder(), Recorder(fills=False), Recorder(fills=False)
    frozen = {"learning_rate": lambda progress: 0.0}
    whole.after_step = late.after_step = other.after_step = lambda progress: None  # type: ignore[method-assign]
    carried(whole, seed=7, **frozen)
    carried(late, first=2, seed=7, **frozen)
    carried(other, first=2, seed=8, **frozen)
    assert torch.equal(late.outputs[0], whole.outputs[2])
    assert not torch.equal(other.outputs[0], whole.outputs[2])
