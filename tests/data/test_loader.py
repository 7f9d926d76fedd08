import numpy as np
import pytest
import torch

from coterie.data.arrays import Arrays
from coterie.data.loader import Loader, center_batches, center_view, epoch_order
from coterie.data.views import Augmentation, Crops, ViewPlan
from coterie.errors import NoImages, UserError

PLAN = ViewPlan(
    crops=(Crops(2, 12, (0.3, 1.0)), Crops(1, 8, (0.1, 0.3), augmentation=Augmentation(blur=0.0))),
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
)


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 20, 3), dtype=np.uint8)


def loader(workers: int = 0, **changes) -> Loader:
    settings = {"batch_size": 6, "epochs": 3, "seed": 4, "workers": workers} | changes
    return Loader(Arrays(images()), PLAN, **settings)


def same(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for (progress, batch), (other_progress, other) in zip(ours, theirs, strict=True):
        assert progress == other_progress
        assert torch.equal(batch.index, other.index)
        assert all(torch.equal(view, twin) for view, twin in zip(batch.views, other.views, strict=True))


def test_shapes_and_progress() -> None:
    batches = list(loader().resume())
    assert len(batches) == 9  # 20 images are 3 whole batches an epoch
    progress, batch = batches[4]
    assert (progress.step, progress.epoch, progress.step_in_epoch, progress.total_steps) == (4, 1, 1, 9)
    assert [tuple(view.shape) for view in batch.views] == [(6, 3, 12, 12), (6, 3, 12, 12), (6, 3, 8, 8)]
    assert all(view.dtype == torch.float32 for view in batch.views)


def test_any_start_and_any_number_of_workers_give_the_same() -> None:
    whole = list(loader().resume())
    for workers, start in ((1, 0), (2, 0), (0, 5), (2, 4)):
        same(list(loader(workers).resume(start)), whole[start:])


def test_each_image_once_an_epoch_in_another_order() -> None:
    batches = list(loader().resume())
    epochs = [torch.cat([batch.index for progress, batch in batches if progress.epoch == epoch]) for epoch in range(3)]
    assert all(len(set(epoch.tolist())) == 18 for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert np.array_equal(epoch_order(4, 1, 20)[:18], epochs[1].numpy())
    assert not np.array_equal(epoch_order(5, 1, 20), epoch_order(4, 1, 20))


class SomeBad(Arrays):
    def __getitem__(self, index: int):
        return b"not an image" if index in (3, 4) else super().__getitem__(index)


def test_a_bad_image_gives_its_place_to_the_next_good_one() -> None:
    bad = Loader(SomeBad(images()), PLAN, batch_size=20, epochs=1, seed=4)
    (_, batch), (_, good) = next(bad.resume()), next(loader(batch_size=20, epochs=1).resume())
    assert torch.equal(batch.index, good.index)
    assert {index for index, _ in batch.bad} == {3, 4}
    differ = {
        int(i) for i, a, b in zip(batch.index, batch.views[0], good.views[0], strict=True) if not torch.equal(a, b)
    }
    assert differ == {3, 4}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_images(workers: int) -> None:
    class AllBad(Arrays):
        def __getitem__(self, index: int):
            return b""

    with pytest.raises(NoImages, match="20 images in a row cannot be decoded"):
        next(Loader(AllBad(images()), PLAN, batch_size=4, epochs=1, seed=0, workers=workers).resume())


def test_fewer_images_than_a_batch() -> None:
    with pytest.raises(UserError, match="use --batch-size 20 or less"):
        loader(batch_size=21)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (5, np.uint16), (1, np.uint16)])
def test_the_middle_of_an_image(channels: int, dtype: type) -> None:
    image = np.zeros((20, 40, channels), dtype)
    image[5:15, 15:25] = np.iinfo(dtype).max
    view = center_view(image, 20)
    assert view.shape == (channels, 20, 20)
    top = 255 if dtype == np.uint8 else 1.0
    assert view[:, 10, 10].min() == top
    assert view[:, 1, 1].max() == 0
    assert center_view(np.zeros((300, 200, channels), dtype), 224).shape == (channels, 224, 224)


def test_center_batches_leave_bad_images_out() -> None:
    stream = center_batches(
        SomeBad(images()), size=16, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, batch_size=5, workers=1
    )
    batches = list(stream)
    assert torch.cat([batch.index for batch in batches]).tolist() == [i for i in range(20) if i not in (3, 4)]
    assert [index for batch in batches for index, _ in batch.bad] == [3, 4]


def test_images_of_8_and_of_16_bits_in_one_source_are_on_one_scale() -> None:
    pictures = [np.full((16, 16, 1), 200, np.uint8), np.full((16, 16, 1), 200 * 257, np.uint16)] * 3
    plan = ViewPlan(
        crops=(Crops(2, 8, (0.5, 1.0), augmentation=Augmentation(blur=0.0)),), channels=1, mean=(0.0,), std=(1.0,)
    )
    _, batch = next(Loader(Arrays(pictures), plan, batch_size=6, epochs=1, seed=0).resume())
    torch.testing.assert_close(batch.views[0], torch.full((6, 1, 8, 8), 200 / 255), atol=2e-3, rtol=0)
    (middle,) = center_batches(Arrays(pictures), size=8, channels=1, mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(middle.views[0], torch.full((6, 1, 8, 8), 200 / 255), atol=2e-3, rtol=0)


def test_each_image_is_decoded_once_for_all_its_views() -> None:
    decoded: list[int] = []

    class Counted(Arrays):
        def __getitem__(self, index: int):
            decoded.append(index)
            return super().__getitem__(index)

    list(Loader(Counted(images()), PLAN, batch_size=20, epochs=1, seed=4).resume())
    assert sorted(decoded) == list(range(20))
