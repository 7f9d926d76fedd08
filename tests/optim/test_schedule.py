import numpy as np
import pytest

from coterie.optim.schedule import Constant, Cosine, Linear, Schedule, extremes
from coterie.types import Progress


def values(schedule: Schedule, steps_per_epoch: int, epochs: int) -> list[float]:
    total = steps_per_epoch * epochs
    return [schedule.at(Progress(step, steps_per_epoch, total)) for step in range(total)]


@pytest.mark.parametrize(("warmup", "start"), [(10, 0.3), (0, 0.0), (1, 0.0)])
def test_the_published_form(warmup: int, start: float) -> None:
    """linspace with both ends, then half a cosine over the steps that remain (methods.md, 2.1)."""
    per_epoch, epochs, peak, final = 7, 30, 4.8, 0.0048
    first = np.linspace(start, peak, per_epoch * warmup)
    t = np.arange(per_epoch * (epochs - warmup))
    rest = final + 0.5 * (peak - final) * (1 + np.cos(np.pi * t / len(t)))
    ours = values(Cosine(peak, final, warmup, start), per_epoch, epochs)
    np.testing.assert_allclose(ours, np.concatenate([first, rest]), rtol=1e-12)


def test_boundaries() -> None:
    ours = values(Cosine(1.0, 0.1, warmup_epochs=2, start=0.0), 5, 4)
    assert (ours[0], ours[9], ours[10]) == (0.0, 1.0, 1.0)
    assert 0.1 < ours[-1] < 0.15  # the last step is one short of the final value, as in the release
    assert values(Constant(0.3), 2, 2) == [0.3] * 4


def test_a_warm_up_of_one_step_and_one_longer_than_the_run() -> None:
    assert values(Cosine(1.0, warmup_epochs=1, start=0.2), 1, 3)[0] == 0.2
    assert max(values(Cosine(1.0, warmup_epochs=50, start=0.0), 3, 2)) == 1.0


def test_a_line_is_lowered_before_it_is_used() -> None:
    """SMoG's beta: the first step already has a share of the way, the last has all of it (parity/README.md)."""
    ours = values(Linear(1.0, 0.9), 5, 2)
    np.testing.assert_allclose(ours, 1.0 - 0.01 * np.arange(1, 11))


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [
        (Constant(0.3), 0.3, 0.3),
        (Linear(1.0, 0.9), 0.9, 1.0),
        (Cosine(0.5, 0.1), 0.1, 0.5),
        (Cosine(0.5, 0.1, warmup_epochs=2, start=0.0), 0.0, 0.5),
    ],
)
def test_extremes(schedule: Schedule, low: float, high: float) -> None:
    assert extremes(schedule) == (low, high)
    assert low <= min(values(schedule, 4, 5)) <= max(values(schedule, 4, 5)) <= high
