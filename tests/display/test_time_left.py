"""The time left, with a clock that the tests set."""

import pytest

from coterie.display.time_left import TimeLeft, clock_time


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(left: TimeLeft, clock: Clock, steps: int, seconds: float, pause: float = 0.0) -> None:
    for _ in range(steps):
        clock.now += seconds
        left.step(left.done + 1, seconds)
        clock.now += pause


def test_it_is_known_from_the_second_step_on() -> None:
    clock = Clock()
    left = TimeLeft(100, clock=clock)
    assert left.text() == ""
    run(left, clock, 1, 60.0)  # workers start
    assert left.text() == ""
    run(left, clock, 1, 1.0)
    assert left.text() == "0:01:38 left"


def test_steps_of_minutes_are_not_forgotten() -> None:
    """Rich forgets samples that are older than 30 s, and then says nothing."""
    clock = Clock()
    left = TimeLeft(1000, clock=clock)
    for _ in range(10):
        run(left, clock, 1, 300.0)
    assert left.seconds() == pytest.approx(990 * 300)
    clock.now += 120.0  # within a step it goes on
    assert left.seconds() == pytest.approx(990 * 300 - 120)
    clock.now += 86_400.0  # a pause does not bring the end nearer
    assert left.seconds() == pytest.approx(989 * 300)


def test_one_long_pause_early_on_says_little_about_the_rest() -> None:
    clock = Clock()
    left = TimeLeft(1000, clock=clock)
    run(left, clock, 10, 1.0)
    clock.now += 500.0  # label-free metrics
    run(left, clock, 10, 1.0)
    assert left.seconds() == pytest.approx(980, rel=0.01)


def test_pauses_that_come_again_and_again_count() -> None:
    clock = Clock()
    left = TimeLeft(1000, clock=clock)
    for _ in range(10):
        run(left, clock, 50, 1.0)
        clock.now += 25.0
    run(left, clock, 1, 1.0)
    assert left.seconds() == pytest.approx(499 * 1.5, rel=0.02)


def test_a_resumed_run_counts_its_own_steps() -> None:
    clock = Clock()
    left = TimeLeft(1000, 900, clock=clock)
    run(left, clock, 11, 2.0)
    assert left.seconds() == pytest.approx(89 * 2)


def test_it_follows_when_steps_become_slower() -> None:
    clock = Clock()
    left = TimeLeft(4000, clock=clock)
    run(left, clock, 1000, 1.0)
    run(left, clock, 1000, 3.0)
    assert left.seconds() == pytest.approx(2000 * 3, rel=0.02)


def test_the_time_as_a_clock_shows_it() -> None:
    assert [clock_time(each) for each in (0.4, 59.6, 3725, 359_999)] == ["0:00:00", "0:01:00", "1:02:05", "99:59:59"]
    assert clock_time(130 * 3600) == "5 days 10 h"
