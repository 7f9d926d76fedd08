"""A part of a batch says what a whole one takes."""

import pytest

from coterie.training.profiling.extrapolation import Timed, affordable, overlapped, whole_batch


def steps(images: int, work: float, **more: float) -> Timed:
    times = {"cpu": 2 * work, "load": 0.125 * images, "filling": 0.0, "peak": 0} | more
    return Timed(images, 2, work, refresh=3.0, first=0.5, workers=7, step=0.0, embedding=0.25, **times)  # type: ignore[arg-type]


def test_a_step_is_a_straight_line_in_its_images() -> None:
    """0.4 s, whatever the batch, and 0.1 s an image; a gibibyte, and 16 bytes an image."""
    small = steps(2, 0.6, filling=0.5, peak=2**30 + 32)
    large = steps(8, 1.2, filling=1.4, peak=2**30 + 128)
    whole = whole_batch(small, large, 256)
    assert whole.work == pytest.approx(0.4 + 25.6)
    assert whole.cpu == pytest.approx(2 * (0.4 + 25.6))
    assert whole.load == pytest.approx(32)
    assert whole.filling == pytest.approx(0.2 + 0.15 * 256)
    assert whole.peak == 2**30 + 16 * 256
    assert (whole.images, whole.steps, whole.refresh, whole.embedding) == (256, 2, 3.0, 0.25)


def test_a_whole_batch_is_not_extrapolated() -> None:
    large = steps(256, 3.0)
    assert whole_batch(steps(2, 9.0), large, 256) is large


@pytest.mark.parametrize(("small", "per_image"), [(0.1, 0.25), (9.0, 0.125), (1.0, 0.125)])
def test_a_disturbed_measurement_does_not_turn_the_line(small: float, per_image: float) -> None:
    """Between half of the larger step's time by image, and all of it."""
    assert whole_batch(steps(2, small), steps(4, 1.0), 32).work == pytest.approx(1.0 + 28 * per_image)


def test_another_program_slows_the_whole_line() -> None:
    """By the clock, twice as long for the smaller step and not for the larger one."""
    small, large = steps(2, 1.2, cpu=0.6), steps(8, 1.2, cpu=1.2)
    whole = whole_batch(small, large, 32)
    assert whole.cpu == pytest.approx(0.4 + 3.2)
    assert whole.work == pytest.approx(3.6 * 2.4 / 1.8)


def test_memory_never_shrinks_with_the_batch() -> None:
    assert whole_batch(steps(2, 0.6, peak=900), steps(8, 1.2, peak=900), 256).peak == 900


@pytest.mark.parametrize(
    ("workers", "cores", "seconds"),
    [
        (0, 8, 3.0),  # one after the other
        (1, 8, 2.0),  # the worker is slower than the step
        (2, 8, 1.0),  # both workers together are as fast
        (4, 8, 1.0),  # the step is slower
        (4, 2, 2.0),  # two cores: two threads for a second each, and two seconds of loading
        (1, 1, 4.0),
    ],
)
def test_loading_is_hidden_as_far_as_workers_and_cores_can(workers: int, cores: int, seconds: float) -> None:
    assert overlapped(1.0, 2.0, 2.0, workers, cores) == seconds


@pytest.mark.parametrize(
    ("per_image", "seconds", "images"),
    [
        (0.01, 100.0, 256),  # two whole batches fit
        (0.01, 5.12, 256),
        (0.01, 5.0, 128),  # no longer
        (1.0, 9.0, 4),
        (1.0, 16.0, 8),
        (1.0, -1.0, 4),  # no time is left, but two sizes are needed
    ],
)
def test_as_many_images_as_the_time_allows(per_image: float, seconds: float, images: int) -> None:
    assert affordable(2, 256, per_image, seconds) == images


def test_no_more_than_a_batch() -> None:
    assert affordable(2, 3, 9.0, 1.0) == 3
