"""Small images stored on the device: decoded once, with workers that only send parameters."""

import numpy as np
import pytest
import torch

from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading import device_images
from coterie.data.loading.device_images import load_device_images
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays

CPU = torch.device("cpu")
LARGEST, AVERAGE = 20, 0.4  # of 255: crops that differ by 1 or 2, amplified by the operations that follow
PLAN = ViewPlan((Crops(2, 20, (0.3, 1.0)), Crops(2, 10, (0.1, 0.3))), mean=(0.0,) * 3, std=(1 / 255,) * 3)


def photographs(count: int, height: int = 30, width: int = 24) -> np.ndarray:
    """Smooth images of all colors."""
    ramp = np.add.outer(np.linspace(0, 2, height), np.linspace(0, 2, width))
    phases = np.random.default_rng(5).uniform(0, 6, (count, 1, 1, 3))
    return (127.5 + 127.5 * np.sin(ramp[None, :, :, None] * 2 + phases)).astype(np.uint8)


class TwoSizes(Arrays):
    """Image 7 is smaller than all others."""

    def __getitem__(self, index: int) -> np.ndarray:
        image = super().__getitem__(index)
        return image[:20] if index == 7 else image


class SomeBad(Arrays):
    """Images 3 and 4 cannot be decoded."""

    def __getitem__(self, index: int):
        return b"not an image" if index in (3, 4) else super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_stored_in_order_and_bad_ones_replaced(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "_CHUNK", 6)  # several requests
    images = photographs(20)
    stored, bad = load_device_images(SomeBad(images), 3, CPU, workers=workers)
    assert (stored.shape, stored.dtype) == ((20, 3, 30, 24), torch.uint8)
    assert [position for position, _ in bad] == [3, 4]
    expected = images[[0, 1, 2, 5, 5, *range(5, 20)]]  # as in a batch: the next one that can be decoded
    assert np.array_equal(stored.numpy(), expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "source",
    [TwoSizes(photographs(20)), TwoSizes(photographs(100)), Arrays(photographs(20).astype(np.uint16))],
    ids=["two sizes in the sample", "two sizes, seen when decoding", "16 bits"],
)
def test_images_that_are_not_alike_are_not_stored(source: Arrays) -> None:
    assert load_device_images(source, 3, CPU) is None


def test_images_that_take_too_much_memory_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "MAX_BYTES", 20 * 30 * 24 * 3)
    assert load_device_images(Arrays(photographs(20)), 3, CPU) is not None
    monkeypatch.setattr(device_images, "MAX_BYTES", 20 * 30 * 24 * 3 - 1)
    assert load_device_images(Arrays(photographs(20)), 3, CPU) is None


def test_images_are_on_the_given_device() -> None:
    """On torch's meta device, which stores no values."""
    stored, _ = load_device_images(Arrays(photographs(5)), 3, torch.device("meta"))
    assert (stored.device.type, stored.shape) == ("meta", (5, 3, 30, 24))


def test_progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "_CHUNK", 6)
    seen = []

    def show(parts, total, what):
        for part in parts:
            seen.append((total, what))
            yield part

    load_device_images(Arrays(photographs(20)), 3, CPU, show_progress=show)
    assert seen == [(4, "decoding the images, once")] * 4


@pytest.mark.parametrize("kind", [Arrays, TwoSizes])
def test_a_run_is_the_same_from_any_step_and_with_any_workers(kind: type[Arrays]) -> None:
    source = kind(photographs(20))
    settings = {"batch_size": 6, "epochs": 2, "seed": 4, "engine": "gpu"}
    whole = list(Loader(source, PLAN, **settings).batches())
    on_cpu = list(Loader(source, PLAN, **settings | {"engine": "cpu"}).batches())
    assert len(whole) == len(on_cpu) == 6
    for (progress, ours), (other_progress, theirs) in zip(whole, on_cpu, strict=True):
        assert progress == other_progress
        assert torch.equal(ours.index, theirs.index)
        for view in theirs.views:
            difference = (ours.views[view] - theirs.views[view]).abs()
            assert difference.max() <= LARGEST
            assert difference.mean() <= AVERAGE
    for workers, start in ((1, 0), (2, 3), (0, 4)):
        loader = Loader(source, PLAN, workers=workers, **settings)
        for (_, ours), (_, theirs) in zip(loader.batches(start), whole[start:], strict=True):
            assert all(torch.equal(ours.views[view], theirs.views[view]) for view in theirs.views)
        assert (loader.device_images is None) == (kind is TwoSizes)


def test_bad_images_are_reported_with_each_batch() -> None:
    loader = Loader(SomeBad(photographs(20)), PLAN, batch_size=10, epochs=1, seed=0, engine="gpu")
    batches = [batch for _, batch in loader.batches()]
    assert [[position for position, _ in batch.bad] for batch in batches] == [[3, 4]] * 2


def test_16_bit_images_are_finished_by_the_workers() -> None:
    images = photographs(8).astype(np.uint16) * 257
    plan = ViewPlan(
        (Crops(2, 20, (0.3, 1.0), augmentation=Augmentation(rotation=0.2)),), mean=(0.5,) * 3, std=(0.2,) * 3
    )
    ours, theirs = (
        next(Loader(Arrays(images), plan, batch_size=8, epochs=1, seed=1, engine=engine).batches())[1]
        for engine in ("gpu", "cpu")
    )
    assert all(torch.equal(ours.views[view], theirs.views[view]) for view in theirs.views)
