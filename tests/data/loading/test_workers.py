import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from coterie.data.augmentation.cpu import augment_batch
from coterie.data.augmentation.gpu import COLUMNS, GpuAugmenter
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading import workers as workers_module
from coterie.data.loading.workers import (
    BatchRequest,
    CropDataset,
    ParameterDataset,
    ViewDataset,
    WorkerBatch,
    decode_images,
    stack_images,
    worker_batches,
)
from coterie.data.sources.arrays import Arrays
from coterie.errors import NoImages, UserError
from coterie.signals import SIGNALS, Interrupted, listening
from tests.data.pictures import encoded, photo

CPU = torch.device("cpu")
PLAN = ViewPlan((Crops(2, 12, (0.3, 1.0)), Crops(1, 8, (0.1, 0.3))), mean=(0.5,) * 3, std=(0.2,) * 3)
REQUEST = BatchRequest(1, np.array([5, 2, 7]), (2, 0))


class SomeBad(Arrays):
    """Images 2 and 3 cannot be decoded."""

    def __getitem__(self, index: int):
        return b"not an image" if index in (2, 3) else super().__getitem__(index)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 24, 32, 3), dtype=np.uint8)


def expected_views(images: np.ndarray) -> list[list[np.ndarray]]:
    """Those of the request, if image 2 is replaced by image 4."""
    parameters = PLAN.sample_parameters(3, REQUEST.epoch, REQUEST.indices)
    return augment_batch([images[5], images[4], images[7]], PLAN, parameters, REQUEST.views)


def test_views_are_those_of_the_request(images: np.ndarray) -> None:
    batch = ViewDataset(SomeBad(images), PLAN, 3)[REQUEST]
    assert batch.index.tolist() == [5, 2, 7]
    assert (batch.views, batch.parameters) == ((2, 0), None)
    assert [position for position, _ in batch.bad] == [2, 3]
    assert list(batch.pixels) == [2, 0]
    for number, view in zip((2, 0), expected_views(images), strict=True):
        assert np.array_equal(batch.pixels[number].numpy(), np.stack(view))


def test_crops_and_parameters_make_these_views_on_the_device(images: np.ndarray) -> None:
    batch = CropDataset(SomeBad(images), PLAN, 3)[REQUEST]
    assert {size: tuple(crops.shape) for size, crops in batch.pixels.items()} == {
        8: (1, 3, 3, 8, 8),
        12: (1, 3, 3, 12, 12),
    }
    assert batch.parameters.shape == (2, 3, COLUMNS)
    assert [position for position, _ in batch.bad] == [2, 3]
    identity = ViewPlan(PLAN.crops, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    finished = GpuAugmenter(identity, CPU).views_from_crops(batch.pixels, batch.parameters, batch.views)
    for number, view in zip((2, 0), expected_views(images), strict=True):
        assert (finished[number] - torch.from_numpy(np.stack(view))).abs().max() <= 3


def test_crops_of_16_bits_are_finished_by_the_worker(images: np.ndarray) -> None:
    deep = Arrays([*images[:5], *(images[5:].astype(np.uint16) * 257)])
    batch, views = (kind(deep, PLAN, 3)[REQUEST] for kind in (CropDataset, ViewDataset))
    assert batch.parameters is None
    assert all(torch.equal(batch.pixels[number], views.pixels[number]) for number in REQUEST.views)
    assert batch.pixels[0].dtype == torch.float32


def test_parameters_alone_have_the_boxes_of_the_images(images: np.ndarray) -> None:
    batch = ParameterDataset(PLAN, 3, (24, 32))[REQUEST]
    assert not batch.pixels
    assert batch.index.tolist() == [5, 2, 7]
    boxes = PLAN.sample_parameters(3, 1, REQUEST.indices).boxes(2, 24, 32, REQUEST.views)
    assert batch.parameters[:, 2, -4:].tolist() == [list(box) for box in boxes]


def test_jpeg_files_are_downscaled_only_as_far_as_the_parameters_allow(images: np.ndarray) -> None:
    asked = []

    def downscales(row: int):
        return lambda height, width: asked.append((row, height, width)) or 2

    class Files(Arrays):
        def __getitem__(self, index: int):
            return encoded(super().__getitem__(index), "JPEG")

    source = Files([photo(seed, 40, 60) for seed in range(3)])
    one, two = decode_images(source, np.array([2, 0]), 3, [], downscales)
    assert one.shape == two.shape == (20, 30, 3)
    assert asked == [(0, 40, 60), (1, 40, 60)]
    (full,) = decode_images(source, np.array([1]), 3, [])
    assert full.shape == (40, 60, 3)


def test_the_next_image_replaces_a_bad_one_also_past_the_end(images: np.ndarray) -> None:
    class LastBad(Arrays):
        def __getitem__(self, index: int):
            return b"" if index >= 8 else super().__getitem__(index)

    bad: list[tuple[int, str]] = []
    (found,) = decode_images(LastBad(images), np.array([8]), 3, bad)
    assert np.array_equal(found, images[0])
    assert [position for position, _ in bad] == [8, 9]


def test_too_many_bad_images_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    monkeypatch.setattr(workers_module, "_MAX_BAD_IN_A_ROW", 2)
    with pytest.raises(NoImages, match=r"^2 images in a row cannot be decoded, the first: 00000002: not an image"):
        list(decode_images(SomeBad(images), np.array([2]), 3, []))


def test_images_of_8_and_16_bits_are_stacked_on_one_scale() -> None:
    eight, sixteen = np.full((1, 2, 2), 51, np.uint8), np.full((1, 2, 2), 0.2, np.float32)
    assert stack_images([eight, eight]).dtype == torch.uint8
    assert stack_images([np.rot90(eight, 1, (1, 2))] * 2).is_contiguous()
    both = stack_images([eight, sixteen])
    assert both.dtype == torch.float32
    torch.testing.assert_close(both, torch.full((2, 1, 2, 2), 0.2))


class Squares(Dataset[Any]):
    """Answers a number with its square, and 7 with what ``act`` does."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __getitem__(self, number: int) -> Any:
        return self.act() if number == 7 else torch.tensor(number**2)


def answers(act: Any, workers: int, count: int = 10) -> Iterator[Any]:
    return worker_batches(Squares(act), iter(range(count)), workers, CPU)


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_come_in_the_order_of_the_requests(workers: int) -> None:
    assert [int(each) for each in answers(lambda: torch.tensor(49), workers)] == [number**2 for number in range(10)]


def fail_for_the_user() -> None:
    raise UserError("one plain line")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_error_arrives_without_the_traceback_of_the_worker(workers: int) -> None:
    with pytest.raises(UserError) as found:
        list(answers(fail_for_the_user, workers))
    assert str(found.value) == "one plain line"


def too_large() -> np.ndarray:
    return np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_lack_of_memory_is_one_line(workers: int) -> None:
    with pytest.raises(UserError, match=r"^not enough memory to load the images: use fewer loader workers") as found:
        list(answers(too_large, workers))
    assert "Traceback" not in str(found.value)


def test_signals_are_for_the_run_and_not_for_its_workers() -> None:
    def signal_itself() -> Any:
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        return torch.tensor(49)

    assert [int(each) for each in answers(signal_itself, 1, 9)][7] == 49


def test_workers_that_ignore_signals_end_when_their_results_are_no_longer_wanted() -> None:
    some = answers(lambda: torch.tensor(49), 2, 1000)
    next(some)
    workers = multiprocessing.active_children()
    assert len(workers) >= 2
    some.close()
    for each in workers:
        each.join(10)
    assert not any(each.is_alive() for each in workers)


def test_a_signal_ends_the_wait_for_a_batch() -> None:
    with listening(), pytest.raises(Interrupted, match=r"^stopped by SIGUSR1: "):
        for number, _ in enumerate(answers(lambda: time.sleep(600), 1)):
            if number == 5:
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()


def test_a_batch_is_not_pinned_without_cuda(images: np.ndarray) -> None:
    (batch,) = worker_batches(ViewDataset(Arrays(images), PLAN, 0), iter([REQUEST]), 0, CPU)
    assert isinstance(batch, WorkerBatch)
    assert not any(pixels.is_pinned() for pixels in batch.pixels.values())


def test_augmentation_of_a_plan_is_used(images: np.ndarray) -> None:
    """A crop of the whole image without any augmentation is the image."""
    off = Augmentation(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
    plan = ViewPlan((Crops(1, 24, (1.0, 1.0), (1.0, 1.0), off),), mean=(0.0,) * 3, std=(1.0,) * 3)
    batch = ViewDataset(Arrays(images[:, :, :24]), plan, 0)[BatchRequest(0, np.array([4]), (0,))]
    assert np.array_equal(batch.pixels[0][0].numpy(), images[4, :, :24].transpose(2, 0, 1))
