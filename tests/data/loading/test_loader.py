import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from coterie.data.augmentation.gpu import GpuAugmenter
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading.loader import Loader
from coterie.data.loading.sampler import epoch_order
from coterie.data.loading.workers import BatchRequest, CropDataset
from coterie.data.sources.arrays import Arrays
from coterie.errors import NoImages, UserError

PLAN = ViewPlan(
    crops=(Crops(2, 12, (0.3, 1.0)), Crops(1, 8, (0.1, 0.3), augmentation=Augmentation(blur=0.0))),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 20, 3), dtype=np.uint8)


def loader(workers: int = 0, plan: ViewPlan = PLAN, **changes) -> Loader:
    settings = {"batch_size": 6, "epochs": 3, "seed": 4, "workers": workers} | changes
    return Loader(Arrays(images()), plan, **settings)


def same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for (progress, batch), (other_progress, other) in zip(ours, theirs, strict=True):
        assert progress == other_progress
        assert torch.equal(batch.index, other.index)
        assert batch.views.keys() == other.views.keys()
        assert all(torch.equal(view, other.views[number]) for number, view in batch.views.items())


def indices(batches, epoch: int) -> torch.Tensor:
    return torch.cat([batch.index for progress, batch in batches if progress.epoch == epoch])


def test_shapes_and_progress() -> None:
    batches = list(loader().batches())
    assert len(batches) == 9  # 20 images make 3 full batches per epoch
    progress, batch = batches[4]
    assert (progress.step, progress.epoch, progress.step_in_epoch, progress.total_steps) == (4, 1, 1, 9)
    shapes = {number: tuple(view.shape) for number, view in batch.views.items()}
    assert shapes == {0: (6, 3, 12, 12), 1: (6, 3, 12, 12), 2: (6, 3, 8, 8)}
    assert all(view.dtype == torch.float32 for view in batch.views.values())


def test_any_start_and_any_number_of_workers_give_the_same_batches() -> None:
    whole = list(loader().batches())
    for workers, start in ((1, 0), (2, 0), (0, 5), (2, 4)):
        same(list(loader(workers).batches(start)), whole[start:])


def test_each_epoch_has_each_image_once_in_another_order() -> None:
    batches = list(loader().batches())
    epochs = [indices(batches, epoch) for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == 18 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert np.array_equal(epoch_order(4, 1, 20)[:18], epochs[1].numpy())
    assert not np.array_equal(epoch_order(5, 1, 20), epoch_order(4, 1, 20))


class SomeBad(Arrays):
    def __getitem__(self, index: int):
        return b"not an image" if index in (3, 4) else super().__getitem__(index)


def test_a_bad_image_is_replaced_by_the_next_good_one() -> None:
    bad = Loader(SomeBad(images()), PLAN, batch_size=20, epochs=1, seed=4)
    (_, batch), (_, good) = next(bad.batches()), next(loader(batch_size=20, epochs=1).batches())
    assert torch.equal(batch.index, good.index)
    assert {index for index, _ in batch.bad} == {3, 4}
    differ = {
        int(i) for i, a, b in zip(batch.index, batch.views[0], good.views[0], strict=True) if not torch.equal(a, b)
    }
    assert differ == {3, 4}


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_images_are_refused(workers: int) -> None:
    class AllBad(Arrays):
        def __getitem__(self, index: int):
            return b""

    with pytest.raises(NoImages, match="20 images in a row cannot be decoded"):
        next(Loader(AllBad(images()), PLAN, batch_size=4, epochs=1, seed=0, workers=workers).batches())


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match="use --batch-size 20 or less"):
        loader(batch_size=21)


def test_a_batch_that_cannot_be_divided_among_processes_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 6 cannot be divided evenly among 4 processes: use --batch-size 8"):
        loader(world_size=4)


def test_processes_share_each_batch() -> None:
    whole = list(loader().batches())
    shares = [list(loader(rank=rank, world_size=2).batches()) for rank in range(2)]
    for (_, batch), (_, first), (_, second) in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([first.index, second.index]), batch.index)
        for number, view in batch.views.items():
            assert torch.equal(torch.cat([first.views[number], second.views[number]]), view)


def test_images_of_8_and_16_bits_are_on_one_scale() -> None:
    pictures = [np.full((16, 16, 1), 200, np.uint8), np.full((16, 16, 1), 200 * 257, np.uint16)] * 3
    plan = ViewPlan(
        crops=(Crops(2, 8, (0.5, 1.0), augmentation=Augmentation(blur=0.0)),), channels=1, mean=(0.0,), std=(1.0,)
    )
    _, batch = next(Loader(Arrays(pictures), plan, batch_size=6, epochs=1, seed=0).batches())
    torch.testing.assert_close(batch.views[0], torch.full((6, 1, 8, 8), 200 / 255), atol=2e-3, rtol=0)


def test_batches_are_on_the_given_device() -> None:
    """On torch's meta device, which stores no values."""
    for workers in (0, 1):
        _, batch = next(loader(workers, device="meta").batches())
        assert {tensor.device.type for tensor in (batch.index, *batch.views.values())} == {"meta"}


def test_crops_are_augmented_on_the_given_device() -> None:
    """With torch's fake tensors, which compute nothing but refuse operands on different devices."""
    run = loader(device="cuda", engine="gpu")
    crops = CropDataset(run.source, PLAN, 4)[BatchRequest(0, np.arange(6), (0, 1, 2))]
    with FakeTensorMode(allow_non_fake_inputs=True):
        run.augmenter = GpuAugmenter(PLAN, run.device)
        batch = run.finish_batch(crops)
    assert {tensor.device.type for tensor in (batch.index, *batch.views.values())} == {"cuda"}


def family(size: int, **changes) -> tuple[Crops, ...]:
    augmentation = Augmentation(blur=0.0, **changes)
    return Crops(2, size, (0.3, 1.0), augmentation=augmentation), Crops(1, 8, (0.1, 0.3), augmentation=augmentation)


SWAPPED = ViewPlan(  # views 0, 1 and 2 are one family, 3, 4 and 5 the other
    crops=(*family(12), *family(12, solarize=1.0)),
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    student_views=(1, 2),
    target_views=(3,),
    grouped_views=(1,),
    bn_only_views=(5,),
    swap=True,
)


def test_two_families_trade_places_at_odd_steps_of_an_epoch() -> None:
    """An epoch has 3 steps, so in the second epoch the parity of the step in the run is the opposite."""
    batches = loader(plan=SWAPPED).batches()
    seen = [(progress.step_in_epoch, set(batch.views)) for progress, batch in batches]
    even, odd = {1, 2, 3, 5}, {4, 5, 0, 2}
    assert seen == [(0, even), (1, odd), (2, even)] * 3


def test_a_view_does_not_depend_on_the_others_that_are_made() -> None:
    everything = ViewPlan(crops=SWAPPED.crops, mean=SWAPPED.mean, std=SWAPPED.std)
    pairs = zip(loader(plan=SWAPPED).batches(), loader(plan=everything).batches(), strict=True)
    for (_, some), (_, whole) in pairs:
        assert len(some.views) == 4
        assert len(whole.views) == 6
        assert all(torch.equal(view, whole.views[number]) for number, view in some.views.items())


def test_a_run_with_two_families_resumes_at_any_step() -> None:
    whole = list(loader(plan=SWAPPED).batches())
    for workers, start in ((0, 1), (1, 3), (2, 4), (0, 8), (0, 9)):
        same(list(loader(workers, plan=SWAPPED).batches(start)), whole[start:])


def test_the_filling_pass_has_each_image_once_and_only_grouped_views() -> None:
    run = loader(plan=SWAPPED)
    filling = list(run.fill_batches())
    assert [(progress.step, progress.steps_per_epoch, progress.total_steps) for progress, _ in filling] == [
        (step, 3, 9) for step in range(3)
    ]
    assert all(set(batch.views) == {1} for _, batch in filling)  # also at odd steps
    assert len(set(indices(filling, 0).tolist())) == 18
    same(list(loader(2, plan=SWAPPED).fill_batches()), filling)
    same(list(run.batches()), list(loader(plan=SWAPPED).batches()))


@pytest.mark.parametrize("seed", [0, 4, 2**64 - 1])
def test_the_filling_pass_has_its_own_order_and_parameters(seed: int) -> None:
    settings = {"seed": seed, "epochs": 20, "batch_size": 20}
    (((_, filling),), run) = loader(**settings).fill_batches(), loader(**settings).batches()
    assert np.array_equal(epoch_order(seed, -1, 20), filling.index.numpy())

    def by_image(batch) -> torch.Tensor:
        return batch.views[0][batch.index.argsort()]

    for _, batch in run:
        assert not torch.equal(batch.index, filling.index)
        assert not (by_image(batch) == by_image(filling)).flatten(1).all(1).any()


def test_each_image_is_decoded_once_for_all_its_views() -> None:
    decoded: list[int] = []

    class Counted(Arrays):
        def __getitem__(self, index: int):
            decoded.append(index)
            return super().__getitem__(index)

    run = Loader(Counted(images()), PLAN, batch_size=20, epochs=1, seed=4)
    for batches in (run.fill_batches(), run.batches()):
        decoded.clear()
        list(batches)
        assert sorted(decoded) == list(range(20))


def test_a_run_of_a_number_of_images_ends_within_an_epoch() -> None:
    whole = list(loader().batches())
    some = loader(images=31)  # 5 batches of 6; an epoch has 3
    assert (some.total_steps, some.steps_per_epoch) == (5, 3)
    batches = list(some.batches())
    assert [progress.step for progress, _ in batches] == list(range(5))
    assert all(progress.total_steps == 5 for progress, _ in batches)
    for (_, batch), (_, other) in zip(batches, whole, strict=False):
        assert torch.equal(batch.views[0], other.views[0])
    same(list(loader(2, images=31).batches(4)), batches[4:])
    assert loader(images=10**9).total_steps == 9  # epochs end it as well
    assert [len(list(each.batches())) for each in (loader(epochs=1, images=6), loader(epochs=1, images=18))] == [1, 3]
