import numpy as np
import pytest

from coterie.data.sources.shard_layout import ShardLayout

LAYOUT = ShardLayout(np.array([0, 3, 3, 5, 9]), True)  # the second shard is empty


@pytest.mark.parametrize(
    ("images", "shards"),
    [
        ((0, 1), [(0, 3)]),
        ((2, 3), [(0, 3)]),
        ((3, 4), [(3, 5)]),
        ((2, 4), [(0, 3), (3, 3), (3, 5)]),
        ((4, 6), [(3, 5), (5, 9)]),
        ((8, 9), [(5, 9)]),
        ((0, 9), [(0, 3), (3, 3), (3, 5), (5, 9)]),
    ],
)
def test_shards_that_contain_a_range_of_images(images, shards):
    assert LAYOUT.overlapping(*images) == shards


def test_every_image_is_in_a_shard_of_its_range():
    for image in range(9):
        ((start, stop),) = LAYOUT.overlapping(image, image + 1)
        assert start <= image < stop
