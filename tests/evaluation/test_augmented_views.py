import numpy as np
import pytest
import torch

from coterie.data.augmentation.cpu import augment, normalize
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.sources.arrays import Arrays
from coterie.errors import BadImage
from coterie.evaluation.augmented_views import IMAGES_PER_BATCH, augmented_views, embed_views

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
JITTERED = Augmentation(flip=0.5, jitter=0.8, brightness=0.4, blur=0.3)
PLAN = ViewPlan(
    (Crops(1, 8, (0.1, 0.4), augmentation=JITTERED), Crops(3, 12, (0.3, 1.0), augmentation=JITTERED)),
    mean=MEAN,
    std=STD,
)


def images(count: int = 9) -> Arrays:
    return Arrays(np.random.default_rng(0).integers(0, 256, (count, 16, 20, 3), dtype=np.uint8))


def test_views_are_those_of_the_plan_with_the_largest_crops() -> None:
    source, indices = images(), np.array([7, 2, 5])
    found = augmented_views(source, indices, PLAN, seed=3, count=5)
    assert found.shape == (5, 3, 3, 12, 12)
    expected = [(-2, 1), (-2, 2), (-2, 3), (-3, 1), (-3, 2)]  # epoch, view: no view of 8 pixels
    for view, (epoch, number) in enumerate(expected):
        parameters = PLAN.sample_parameters(3, epoch, indices)
        for row, index in enumerate(indices):
            pixels = torch.from_numpy(augment(source[int(index)], PLAN, parameters, row, [number])[0].copy())
            assert torch.equal(found[view, row], normalize(pixels[None], MEAN, STD)[0])


def test_views_depend_on_the_image_and_the_seed_but_not_on_the_other_images() -> None:
    together = augmented_views(images(), np.arange(9), PLAN, seed=1)
    assert torch.equal(augmented_views(images(), np.array([4]), PLAN, seed=1), together[:, 4:5])
    assert not torch.equal(augmented_views(images(), np.array([4]), PLAN, seed=2), together[:, 4:5])
    assert len({view.numpy().tobytes() for view in together[:, 0]}) == 4


def test_embeddings_of_views_are_in_the_order_of_views_and_images_over_all_batches() -> None:
    source, indices = images(IMAGES_PER_BATCH + 6), np.arange(IMAGES_PER_BATCH + 6)[::-1].copy()
    views = augmented_views(source, indices, PLAN, seed=0)
    flat, mean = embed_views(lambda batch: (batch.flatten(1), batch.mean(dim=(1, 2, 3))), source, indices, PLAN, 0)
    assert torch.equal(flat, views.flatten(2))
    # A mean of 432 values is rounded, if in pairs, log2(432) < 9 times.
    allowed = 9 * torch.finfo(torch.float32).eps * float(views.abs().max())
    torch.testing.assert_close(mean, views.mean(dim=(2, 3, 4)), atol=allowed, rtol=0)


def test_an_image_that_cannot_be_decoded_is_named_by_its_error() -> None:
    class Broken(Arrays):
        def __getitem__(self, index: int):
            return b"no image" if index == 3 else super().__getitem__(index)

    broken = Broken(np.zeros((5, 16, 16, 3), dtype=np.uint8))
    assert augmented_views(broken, np.array([0, 4]), PLAN, seed=0).shape[1] == 2
    with pytest.raises(BadImage):
        augmented_views(broken, np.array([0, 3]), PLAN, seed=0)
